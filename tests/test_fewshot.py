"""The few-shot benchmark: its data, its episodes, and what the command writes."""

from __future__ import annotations

import dataclasses
import gzip
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bench import meta, results
from bench.fewshot import datasets, glyphs, network, table, train
from bench.fewshot.datasets import Dataset, Split
from bench.fewshot.sampler import Sampler, corrupt, jittered, nearest_neighbour
from tests.processes import in_two_processes

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stripes(classes: int = 12, each: int = 6, step: int = 2) -> Split:
    """Class k has ``step * k + 2`` bright rows, in two groups; the last column tells the image."""
    images = torch.zeros(classes * each, 1, 28, 28, dtype=torch.uint8)
    for i in range(len(images)):
        images[i, :, : step * (i // each) + 2] = 200
        images[i, :, :, -1] = i
    rows = list(torch.arange(len(images)).split(each))
    half = classes // 2
    return Split(images, rows, [list(range(half)), list(range(half, classes))])


def toy() -> Dataset:
    return Dataset("toy", stripes(), stripes(), stripes())


# Episodes.


@pytest.mark.parametrize(("shot", "query"), [(1, 5), (3, 3), (9, 4)])
def test_episodes_are_of_one_group_and_query_images_are_new(shot: int, query: int) -> None:
    split = stripes()
    (xs, ys), (xq, yq) = Sampler(split, 4, shot, query, generator()).draw(20)
    assert xs.shape == (20, 4 * shot, 1, 28, 28) and xq.shape == (20, 4 * query, 1, 28, 28)
    rows_s, rows_q = ((x[:, :, 0, 0, -1] * 255).round().long() for x in (xs, xq))
    for task in range(20):
        assert not set(rows_s[task].tolist()) & set(rows_q[task].tolist())
        of = {int(y): {int(r) // 6 for r in rows_s[task][ys[task] == y]} for y in range(4)}
        assert all(len(classes) == 1 for classes in of.values())
        assert of == {int(y): {int(r) // 6 for r in rows_q[task][yq[task] == y]} for y in range(4)}
        assert len({next(iter(classes)) // 6 for classes in of.values()}) == 1
        assert len({next(iter(classes)) for classes in of.values()}) == 4


def test_a_generator_gives_the_same_episodes() -> None:
    def draw(seed: int) -> Tensor:
        return Sampler(stripes(), 3, 1, 2, generator(seed), True, True).draw(4)[1][0]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_a_way_beyond_the_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="way=7, but no group has more than 6"):
        Sampler(stripes(), 7, 1, 1, generator())


def test_jitter_is_small_and_corruption_is_of_the_query_set_alone() -> None:
    x = torch.zeros(50, 1, 28, 28)
    x[:, :, 10:18, 10:18] = 1
    moved = jittered(x, generator())
    assert (moved.sum((1, 2, 3)) / 64 - 1).abs().max() < 0.3
    assert len({round(float(y.sum()), 3) for y in moved}) > 40
    whole = torch.arange(28.0)
    centre = (moved.sum(2) * whole).sum(-1) / moved.sum((2, 3))
    assert 0.1 < (centre - 13.5).abs().max() < 2
    kinds = {round(float((corrupt(x, generator(i)) - x).abs().sum()) / 1e3) for i in range(30)}
    assert len(kinds) >= 4 and 0 not in kinds
    clean, shifted = (Sampler(stripes(), 3, 1, 2, generator(), shift=s).draw(4) for s in (0, 1))
    assert torch.equal(clean[0][0], shifted[0][0])
    assert not torch.equal(clean[1][0], shifted[1][0])


def test_nearest_neighbour() -> None:
    xs = torch.tensor([[0.0, 1.0, 5.0]])[..., None, None, None]
    xq = torch.tensor([[0.4, 0.6, 9.0, 3.1]])[..., None, None, None]
    ys, yq = torch.tensor([[2, 0, 1]]), torch.tensor([[2, 0, 1, 0]])
    assert nearest_neighbour(((xs, ys), (xq, yq))).tolist() == [0.75]


# Data.


def need(name: str) -> Dataset:
    try:
        return datasets.make(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_glyphs(tmp_path: Path) -> None:
    need("glyphs")
    found = glyphs.load()
    assert found["images"].shape[1:] == (28, 28) and found["images"].max() == 255
    counts = np.bincount(found["letters"])
    assert len(counts) == len(found["scripts"]) > 1000 and counts.min() >= glyphs.FONTS
    data = datasets.make("glyphs")
    parts = [
        {str(found["scripts"][int(found["letters"][rows[0]])]) for rows in split.classes}
        for split in (data.train, data.val, data.test)
    ]
    assert set(datasets.ALIKE) <= parts[0]
    assert set(found["scripts"]) == set.union(*parts)
    assert sum(map(len, parts)) == len(set.union(*parts))
    for split in (data.train, data.val, data.test):
        for group in split.groups:
            of = {str(found["scripts"][found["letters"][split.classes[k][0]]]) for k in group}
            assert len(of) == 1


@pytest.mark.parametrize(
    ("character", "script"),
    [("ж", "CYRILLIC"), ("É", "LATIN"), ("ა", "GEORGIAN"), ("Ა", "GEORGIAN"), ("ሀ", "ETHIOPIC"),
     ("ᐁ", "CANADIAN"), ("5", None), ("!", None), ("\u0901", None)],
)  # fmt: skip
def test_scripts(character: str, script: str | None) -> None:
    assert glyphs.script_of(character) == script


def test_fashion(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        pixels = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, head, array in (("images-idx3", 16, pixels), ("labels-idx1", 8, labels)):
            path = tmp_path / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(bytes(head) + array.tobytes()))
    data = datasets.make("fashion", tmp_path)
    assert data.shift and len(data.train.images) == 50 and len(data.val.images) == 10
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(pixels))
    assert [rows.tolist() for rows in data.test.classes] == [[k, k + 10] for k in range(10)]


@pytest.mark.parametrize("layout", ["python", "binary"])
def test_cifar(layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = []
    for part, count in (("train", 300), ("test", 100)):
        pixels = rng.integers(256, size=(count, 3072), dtype=np.uint8)
        fine = np.arange(count) % 100
        whole.append(pixels)
        if layout == "python":
            content = {b"data": pixels, b"fine_labels": fine.tolist(), b"coarse_labels": []}
            (tmp_path / part).write_bytes(pickle.dumps(content))
        else:
            records = np.concatenate([np.zeros((count, 1)), fine[:, None], pixels], 1)
            (tmp_path / f"{part}.bin").write_bytes(records.astype(np.uint8).tobytes())
    data = datasets.make("cifar", tmp_path)
    assert [len(x.classes) for x in (data.train, data.val, data.test)] == [64, 16, 20]
    found = [rows.tolist() for x in (data.train, data.val, data.test) for rows in x.classes]
    assert sorted(found) == [[k, k + 100, k + 200, k + 300] for k in range(100)]
    assert np.array_equal(data.train.images.reshape(400, -1).numpy(), np.concatenate(whole))


def test_a_pickle_that_calls_is_refused(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "train").write_bytes(pickle.dumps(Bad()))
    with pytest.raises(pickle.UnpicklingError, match="no place in a data set"):
        datasets.make("cifar", tmp_path)
    assert not (tmp_path / "made").exists()


def test_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for label in range(10):
        (tmp_path / f"class {label}").mkdir()
        for i in range(3):
            colour = (20 * label, i, 0)
            image.new("RGB", (9, 7), colour).save(tmp_path / f"class {label}" / f"{i}.png")
    data = datasets.make("folder", tmp_path)
    assert [len(x.classes) for x in (data.train, data.val, data.test)] == [6, 2, 2]
    assert data.train.images.shape == (30, 3, 32, 32)
    for rows in data.test.classes:
        assert len(set(data.test.images[rows, 0].flatten().tolist())) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [("glyphs", "apt-get install fonts-noto-core"), ("fashion", "dataset-fashion-mnist"),
     ("cifar", "cifar-100-python"), ("folder", "no image")],
)  # fmt: skip
def test_missing_data_names_what_to_install(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=says):
        datasets.make(name, tmp_path)


# Runs.

SMALL = train.RunSettings(
    dataset="toy", way=3, query=2, width=4, inner_steps=1, tasks=2, iterations=6, test_episodes=30,
    val_episodes=4,
)  # fmt: skip


@pytest.mark.parametrize("algorithm", network.ALGORITHMS)
def test_every_algorithm_runs(algorithm: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, algorithm=algorithm, iterations=2)
    outcome = train.run(settings, toy(), CPU, tmp_path / "a.pt")
    assert len(outcome["episodes"]["adapted"]) == 30
    assert [row["iteration"] for row in outcome["rows"]] == [1, 2]


@pytest.mark.parametrize("layer", network.LAYERS)
def test_sigma_moves_where_it_may(layer: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, layer=layer)
    layers = train.run(settings, toy(), CPU, tmp_path / "a.pt")["layers"]
    assert len(layers) == (0 if layer == "plain" else 4)
    assert all((x["start"] != x["end"]) == (layer == "akm") for x in layers)


@pytest.mark.parametrize(
    ("adapt", "count"), [("all", 26), ("modulation", 8), ("head", 2), ("modulation+head", 10)]
)
def test_what_moves_within_a_task(adapt: str, count: int) -> None:
    model = network.build("akm", "group", 8, 1, 28, 5)
    found = network.learner(model, "maml", adapt, 0.1, 0.5, 2)
    assert len(found.adapted_names) == count
    rates = dict(zip(found.adapted_names, found.rates, strict=True))
    for name, rate in rates.items():
        assert round(float(rate), 6) == (0.5 if name.endswith((".r", ".s")) else 0.1)


def test_it_learns(tmp_path: Path) -> None:
    """Images that differ by many bright rows. With each of seeds 0, 1 and 2 all episodes come out
    right and the loss halves; without outer steps 82 % are right and the loss stays."""
    far = dataclasses.replace(stripes(6, step=4), groups=[[0, 2, 4], [1, 3, 5]])
    settings = dataclasses.replace(SMALL, width=8, inner_steps=2, tasks=4, iterations=30, lr=1e-2)
    outcome = train.run(settings, Dataset("far", far, far, far), CPU, tmp_path / "a.pt")
    assert outcome["accuracy"]["mean"] > 0.95
    losses = [row["loss"] for row in outcome["rows"]]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_an_interval() -> None:
    assert train.interval(torch.tensor([0.0, 1.0] * 50)) == {"mean": 0.5, "ci95": 0.09849}


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.test_fewshot import CPU, SMALL, toy, train

saves = 0
def save(*args, **more):
    global saves
    keep(*args, **more)
    saves += 1
    if saves == 2:
        os.kill(os.getpid(), signal.SIGKILL)

train.CHECKPOINT_EVERY = 2
keep, train.save_checkpoint = train.save_checkpoint, save
train.run(SMALL, toy(), CPU, Path(sys.argv[1]))
"""


def test_a_killed_run_gives_what_a_whole_one_gives(tmp_path: Path) -> None:
    whole = train.run(SMALL, toy(), CPU, tmp_path / "whole.pt")
    checkpoint = tmp_path / "killed.pt"
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(checkpoint)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert torch.load(checkpoint)["more"]["done"] == 4
    with pytest.raises(ValueError, match="of other settings"):
        other = dataclasses.replace(SMALL, seed=1)
        train.run(other, toy(), CPU, checkpoint)
    again = train.run(SMALL, toy(), CPU, checkpoint)
    for key in ("rows", "accuracy", "episodes", "layers"):
        assert again[key] == whole[key]


def _share(rank: int, folder: str) -> None:
    outcome = train.run(SMALL, toy(), CPU, Path(folder) / "shared.pt")
    if rank == 0:
        torch.save(outcome, Path(folder) / "outcome.pt")


def test_two_processes_share_the_tasks(tmp_path: Path) -> None:
    in_two_processes(_share, str(tmp_path))
    found = torch.load(tmp_path / "outcome.pt")
    wanted = train.run(SMALL, toy(), CPU, tmp_path / "alone.pt")
    assert found["processes"] == 2 and found["settings"] == wanted["settings"]
    pairs = [(found["rows"], wanted["rows"]), *zip(found["layers"], wanted["layers"], strict=True)]
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_command_writes_what_the_figure_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from plots import fewshot

    monkeypatch.setattr(datasets, "make", lambda name, path: toy())
    options = "--way 3 --query 2 --width 4 --inner-steps 1 --tasks 2 --test-episodes 20".split()
    for more in (["--layer", "plain"], [], ["--seed", "1"]):
        train.main(
            [*options, *more, "--iterations", "2", "--val-episodes", "3", "--device", "cpu",
             "--checkpoint", str(tmp_path / "c.pt"), "--out", str(tmp_path)]
        )  # fmt: skip
    assert "20 test episodes" in capsys.readouterr().out
    assert not (tmp_path / "c.pt").exists()
    runs = results.every("fewshot/glyphs-3way-*", tmp_path)
    assert [run["settings"]["seed"] for run in runs] == [0, 1, 0]
    assert set(results.SCHEMA) <= set(runs[0])
    assert runs[0]["episodes"]["floor"] == runs[2]["episodes"]["floor"]
    assert [len(found) for found in table.groups(runs).values()] == [2, 1]
    plt.close(fewshot.draw(runs))


def test_runs_are_compared_episode_by_episode() -> None:
    draws = np.random.default_rng(0)
    adapted = draws.uniform(size=(4, 40))
    floor = draws.uniform(size=40)
    kinds = [("akm", 0), ("akm", 1), ("plain", 0), ("plain", 1)]
    runs: list[dict[str, Any]] = [
        {
            "settings": {**vars(SMALL), "layer": layer, "seed": seed},
            "accuracy": {"mean": one.mean()},
            "episodes": {"adapted": one.tolist(), "floor": floor.tolist()},
            "layers": [{"end": {"sigma": [0.25, 1.5, 0.5]}}] if layer == "akm" else [],
        }
        for (layer, seed), one in zip(kinds, adapted, strict=True)
    ]
    ours, theirs = adapted[:2].mean(0), adapted[2:].mean(0)

    def said(line: str) -> list[list[float]]:
        return [[float(x) for x in one] for one in re.findall(r"([-+]?[\d.]+) ± ([\d.]+) %", line)]

    def wanted(x: np.ndarray[Any, Any]) -> list[float]:
        low, high = stats.norm.interval(0.95, x.mean(), stats.sem(x))
        return [100 * x.mean(), 50 * (high - low)]

    _, _, first, second = table.table(runs).splitlines()
    assert first.startswith("AKM") and first.endswith("0.50")
    shown = [wanted(ours), wanted(ours - floor), wanted(ours - theirs)]
    np.testing.assert_allclose(said(first), shown, atol=0.02)
    np.testing.assert_allclose(said(second), [wanted(theirs), wanted(theirs - floor)], atol=0.02)
    low, high = sorted(100 * one.mean() for one in adapted[:2])
    assert f"{low:.1f}% … {high:.1f}%" in first


def test_memory_of_a_meta_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta, "WIDTH", 4)
    kept, again = (
        [meta.peak_bytes(meta.meta_gradient(CPU, 2, n, "all", True, how), CPU) for n in (1, 4)]
        for how in (False, True)
    )
    assert kept[1] > 2 * kept[0]
    assert again[1] < 1.3 * again[0]
    assert len(meta.points()) == 32
