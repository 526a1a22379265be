"""The experiments on labelled images, from end to end on a few small ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.experiments import classification, command, corruptions, runner, shift
from bench.experiments.corrupt import KINDS
from bench.experiments.protocol import Experiment, Place, Run
from tests.experiments.fashion import write_fashion

SMALL = {"train": 40, "test": 20, "steps": 2, "batch": 8, "select": 10, "adapt_steps": 1}
NAMES = [name for name in command.EXPERIMENTS if name != "field"]


def experiment_of(name: str, folder: Path) -> tuple[Experiment, Place]:
    write_fashion(folder, train=100)
    experiment = command.load(name)
    settings = experiment.protocol.settings
    small = {key: value for key, value in SMALL.items() if key in settings}
    return experiment, Place(torch.device("cpu"), settings | small, "fashion", folder)


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_runs_and_repeats(name: str, tmp_path: Path) -> None:
    experiment, place = experiment_of(name, tmp_path)
    protocol = experiment.protocol
    conditions = {protocol.conditions[0], protocol.conditions[-1]}
    for arm in protocol.arms:
        for condition in conditions if arm.name.startswith("AKM") else {protocol.conditions[0]}:
            found = runner.do(experiment, place, Run(condition, arm, 3), tmp_path / "a")
            for names in protocol.metrics.values():
                assert found.metric(names).shape == (20,)
            assert bool(found.learned["sigma"]) == any(
                word in arm.name for word in ("AKM", "learned", "curriculum")
            )
            net, x = experiment.model(place, Run(condition, arm, 3))
            assert net(x).shape == (8, 10)
    runner.do(experiment, place, Run(condition, protocol.arms[1], 3), tmp_path / "b")
    (again,) = (tmp_path / "b").rglob("*.json")
    assert again.read_bytes() == (tmp_path / "a" / again.relative_to(tmp_path / "b")).read_bytes()


def test_sigma_is_fixed_where_akm_left_it(tmp_path: Path) -> None:
    experiment, place = experiment_of("corruptions", tmp_path)
    arms = {arm.name: arm for arm in corruptions.PROTOCOL.arms}
    for condition in corruptions.PROTOCOL.conditions:
        learned, fixed = (
            runner.do(experiment, place, Run(condition, arms[name], 0), tmp_path).learned["sigma"]
            for name in ("AKM", "AKM, σ fixed")
        )
        assert learned == fixed and any(x != 0.3 for layer in learned for x in layer)


class ByMean(nn.Module):
    """Class 1 if the image is bright, by the mean of its pixels; else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean((1, 2, 3)) > 0.5
        return torch.stack([~bright, bright], 1).float()


def test_a_corrupted_score_is_the_share_of_severities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, place = experiment_of("corruptions", tmp_path)
    dark = torch.zeros(20, 1, 6, 6, dtype=torch.uint8)
    monkeypatch.setattr(
        "bench.experiments.data.test", lambda place, count: (dark, dark[:, 0, 0, 0])
    )
    monkeypatch.setattr(  # bright from severity 4 on
        "bench.experiments.data.corrupted",
        lambda place, count, kind, severity: dark + (255 if severity > 3 else 0),
    )
    assert classification.clean(place, ByMean())["clean"].tolist() == [1.0] * 20
    scores = classification.corrupted(place, ByMean())
    assert set(scores) == set(KINDS) and all((x == 0.6).all() for x in scores.values())
    (one,) = classification.corrupted(place, ByMean(), ["fog"], [3, 4]).values()
    assert (one == 0.5).all()


@pytest.mark.parametrize("by", shift.SHIFTS)
def test_an_image_moves_and_its_edge_is_repeated(by: tuple[int, int]) -> None:
    x = torch.randint(256, (2, 3, 9, 8), dtype=torch.uint8)
    wide = np.pad(x.numpy(), ((0, 0), (0, 0), (9, 9), (9, 9)), mode="edge")
    whole = np.roll(wide, by, axis=(2, 3))[..., 9:-9, 9:-9]
    assert np.array_equal(shift.moved(x, *by).numpy(), whole)


def test_consistency_counts_shifts_that_change_nothing() -> None:
    class TopLeft(ByMean):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[..., :1, :1])

    x = torch.zeros(3, 1, 9, 9, dtype=torch.uint8)
    x[1] = 255
    x[2, :, 0, 0] = 255  # leaves the corner when it moves up or left; else its edge stays
    leaves = [down < 0 or right < 0 for down, right in shift.SHIFTS]
    expected = [1, 1, 1 - np.mean(leaves)]
    assert shift.consistency(TopLeft(), x).tolist() == pytest.approx(expected)


def test_the_command_prints_saves_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(tmp_path)
    monkeypatch.setattr(runner, "prepare_process", lambda: None)  # not for the tests after this
    monkeypatch.setattr("bench.timing.keep_memory", lambda: None)
    monkeypatch.setattr("bench.timing.FEWEST_ROUNDS", 1)
    monkeypatch.setattr("bench.timing.SAMPLE", 0.0)
    monkeypatch.setattr(command, "ONE_STEP", 0.0)
    experiment = command.load("shift")
    monkeypatch.setitem(experiment.protocol.quick, "steps", 1)
    monkeypatch.setitem(experiment.protocol.quick, "test", 10)
    argv = ["shift", "--quick", "--seeds", "1", "--jobs", "1", "--data", str(tmp_path)]
    argv += ["--device", "cpu", "--out", str(tmp_path / "out")]
    command.main(argv)
    printed = capsys.readouterr().out
    assert printed.index("hypothesis: A blur of learned σ") < printed.index("shallow, 1 seeds")
    assert "PRIMARY clean, AKM before − stride, shallow: " in printed
    (path,) = (tmp_path / "out").glob("*/experiments/shift.json")
    record = json.loads(path.read_text())
    assert record["settings"]["steps"] == 1 and record["device"] in printed
    assert len(record["rows"]) == 2 * len(experiment.protocol.arms)
    assert all(row["step_ms"] > 0 and row["flops"] > 0 for row in record["rows"])
    monkeypatch.setattr(classification, "fit", None)  # nothing is left to train
    command.main(argv)
    with pytest.raises(SystemExit, match="fashion-mnist"):
        command.main([*argv, "--data", str(tmp_path / "none"), "--seeds", "2"])
