"""The benchmarks: what they write and whom they compare."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

import akm_triton as akm
from bench import __main__ as command_line
from bench import (
    accuracy,
    comparison,
    digits,
    dimensions,
    kernel_size,
    networks,
    providers,
    results,
    roofline,
    scaling,
    shapes,
    timing,
    train_step,
)
from bench.sweep import QUICK, TINY, Budget, Row, Setting, Sweep

CPU = torch.device("cpu")
POINT = comparison.Point((2, 4, 20, 17), 3, CPU)
BRIEF = Budget("brief", seconds=0.01, slowest=60, compiled_radius=0)
EVERYONE = [
    pytest.param(provider, id=provider.name, marks=[pytest.mark.whole] if provider.compiles else [])
    for provider in (providers.OURS, *providers.RIVALS)
]
ROWS = [{"provider": "a", "gelements": 1.5}]


def test_a_result_has_the_schema_and_reads_back(tmp_path: Path) -> None:
    path = results.save("sweep", CPU, ROWS, tmp_path, extra=[1, 2])
    record = json.loads(path.read_text("utf-8"))
    assert set(results.SCHEMA) <= set(record)
    assert record["rows"] == ROWS
    assert record["extra"] == [1, 2]
    assert path.parent.name == results.slug(record["device"])
    assert results.newest("sweep", tmp_path) == record


def test_the_newest_result_is_drawn(tmp_path: Path) -> None:
    for name, date in (("old", "2024-01-01"), ("new", "2025-01-01")):
        record = {**dict.fromkeys(results.SCHEMA, name), "date": date, "rows": []}
        results.write_json(tmp_path / name / "sweep.json", record)
    record = results.newest("sweep", tmp_path)
    assert record is not None and record["date"] == "2025-01-01"
    assert results.newest("other", tmp_path) is None


DAMAGED = {
    "empty": "", "cut off": '{"sweep": "some", "rows": [', "not text": "\xff\xfe", "a list": "[]",
    "too deep": "[" * 100_000, "of others": '{"name": "package"}', "rows are none": "ROWS",
}  # fmt: skip


def damage(path: Path, text: str) -> None:
    record = {**dict.fromkeys(results.SCHEMA, "x"), "rows": None}
    content = json.dumps(record) if text == "ROWS" else text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("latin-1"))


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_one_damaged_result_among_others_is_named(text: str, tmp_path: Path) -> None:
    results.save("sweep", CPU, ROWS, tmp_path)
    damage(tmp_path / "another" / "sweep.json", text)
    for read in (results.newest, results.every):
        with pytest.raises(ValueError, match=r"another/sweep\.json (cannot be read|is no result)"):
            read("sweep", tmp_path)
    damage(tmp_path / "another" / "fewshot" / "glyphs-5way-1shot-a.json", text)
    with pytest.raises(SystemExit, match=r"glyphs-5way-1shot-a\.json "):
        command_line.main(["fewshot-table", "--results", str(tmp_path)])


@pytest.mark.parametrize("text", ["{", '{"roofline": 3}', "[" * 100_000])
def test_a_damaged_log_of_a_campaign_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "campaign.json").write_text(text)
    # in a process of its own: the campaign's sweeps choose the interpreter when they are imported
    done = subprocess.run(
        [sys.executable, "-m", "bench", "campaign", "--rehearse", "--out", str(tmp_path)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"campaign\.json (cannot be read|is no log)", done.stderr)
    assert (tmp_path / "campaign.json").read_text() == text


@pytest.mark.parametrize("value", [object(), float("nan")], ids=["object", "nan"])
def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path: Path, value: object) -> None:
    path = results.save("sweep", CPU, ROWS, tmp_path)
    before = path.read_bytes()
    with pytest.raises((TypeError, ValueError)):
        results.save("sweep", CPU, [{"x": value}], tmp_path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = results.save("sweep", CPU, ROWS, tmp_path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        results.save("sweep", CPU, [], tmp_path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


# what a row of each sweep says of itself, if it was measured
KEYS = {
    "digits": {"epoch", "loss"},
    "kernel-size": {
        "shape",
        "dtype",
        "layout",
        "kernel",
        "direction",
        "provider",
        "bytes",
        "of_copy",
    },
    "shapes": {"networks", "shape", "dtype", "layout", "direction", "provider", "bytes", "of_copy"},
    "dimensions": {"shape", "dtype", "kernel", "direction", "provider", "bytes", "of_copy"},
    "scaling": {"axis", "size", "shape", "direction", "provider", "bytes", "of_copy"},
    "accuracy": {"what", "dtype", "kernel", "provider", "max", "rms"},
    "roofline": {"kernel", "dtype", "rate"},
    "correctness": {"problem", "dtype", "error", "bound", "right"},
    "small-maps": {"shape", "op", "provider", "bytes", "wall", "by_identity"},
    "train-step": {"network", "variant", "dtype", "images"},
    "launch": {"call"},
    "predict": {"machine", "op", "shape", "radius", "bytes", "predicted", "of_copy", "sensitivity"},
    "predict-dimensions": {"machine", "op", "shape", "radius", "bytes", "moved", "predicted"},
    "candidates": {"machine", "op", "shape", "radius", "place", "tiles", "effort", "predicted"},
    "meta": {"tasks", "steps", "adapt", "at_once", "checkpoint", "peak_bytes"},
    "fewshot": {"iteration", "loss", "val"},
    "experiments": {"condition", "arm", "seeds", "metrics", "learned"},
}
UNTIMED = {
    "digits", "accuracy", "predict", "predict-dimensions", "candidates", "correctness", "fewshot",
    "experiments",
}  # fmt: skip
COMMITTED = sorted(
    path
    for path in results.ROOT.glob("*/**/*.json")
    if path.parent.parent.name != "experiments"  # single runs, which have no date
)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: str(p.relative_to(results.ROOT)))
def test_committed_results_have_the_schema(path: Path) -> None:
    check_schema(json.loads(path.read_text("utf-8")))


def check_schema(record: dict[str, Any]) -> None:
    assert set(results.SCHEMA) <= set(record)
    assert record["rows"]
    sweep = record["sweep"].split("/")[0]
    for row in record["rows"]:
        if row.get("status", "ok") not in ("ok", "predicted"):
            assert row["status"] in ("missing", "skipped", "failed") and row["note"]
            continue
        assert KEYS[sweep] <= row.keys()
        if sweep not in UNTIMED:
            assert 0 < row["p20"] <= row["p50"] <= row["p80"]


def test_a_committed_result_lies_where_its_device_says() -> None:
    for path in COMMITTED:
        record = json.loads(path.read_text("utf-8"))
        device, *sweep = path.relative_to(results.ROOT).with_suffix("").parts
        assert (device, "/".join(sweep)) == (results.slug(record["device"]), record["sweep"])


def test_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    others = {"codegen", "tune-device", "campaign", "experiment"}
    assert {*KEYS, *others} - {"experiments"} <= set(listed)
    for module, purpose in command_line.COMMANDS.values():
        assert purpose and find_spec(module)
    assert command_line.main(["unknown"]) == 2


def prepared(provider: providers.Provider, backward: bool) -> comparison.Inputs:
    """Inputs, after a check that the provider agrees with the float64 blur; skips one not here."""
    if "cpu" not in provider.devices:
        pytest.skip("needs a GPU")
    if provider.compiles and shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    given = comparison.inputs(POINT, backward)
    try:
        # relative error up to TOLERANCES: the rounding of float32 taps and one map between passes
        comparison.prepare(provider, POINT, given, QUICK)
    except comparison.Excluded as reason:
        if reason.status == "missing":
            pytest.skip(reason.note)
        raise
    except Exception as error:
        if not provider.packages:
            raise
        pytest.skip(f"{provider.name} does not run here: {error}")
    return given


@pytest.mark.parametrize("provider", EVERYONE)
def test_every_peer_blurs_alike(provider: providers.Provider) -> None:
    prepared(provider, backward=False)


@pytest.mark.parametrize("provider", [p for p in EVERYONE if p.values[0].backward])
def test_every_peer_has_the_same_gradients(provider: providers.Provider) -> None:
    given = prepared(provider, backward=True)
    z, sigma = given.z, given.shared_sigma if provider.shared else given.sigma
    found = torch.autograd.grad(provider.build(z, sigma, POINT.radius)(), (z, sigma), given.g)
    exact = [x.detach().double().requires_grad_() for x in (z, sigma)]
    y = akm.gaussian_blur(
        *exact, gaussian="sampled", border="zeros", max_radius=POINT.radius, backend="torch"
    )
    for x, expected in zip(found, torch.autograd.grad(y, exact, given.g.double()), strict=True):
        torch.testing.assert_close(x.double(), expected, rtol=1e-4, atol=1e-4)


def brief(dtypes: tuple[torch.dtype, ...] = ()) -> Setting:
    return Setting(CPU, BRIEF, dtypes)


@pytest.fixture
def small_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_size, "CPU", (POINT.shape,))
    monkeypatch.setattr(kernel_size, "RADII", (1, 3))


def measured(sweep: Sweep, setting: Setting) -> list[Row]:
    return [row for point in sweep.measure(setting) for row in point]


def test_signals_and_volumes_are_compared() -> None:
    """Rivals that do not agree with float64 would be reported as failed."""
    rows = measured(dimensions.SWEEP, Setting(CPU, TINY))
    assert {tuple(row["shape"]) for row in rows} == {*dimensions.TINY}
    for row in rows:
        if (row["provider"], row["direction"]) == ("scipy, one σ", "forward+backward"):
            assert row["note"] == "forward only"
        else:
            assert row["status"] == "ok" and row["p50"] > 0
    text = dimensions.table(rows)
    assert text.count("forward+backward") == 2 and text.count("×") >= 4 and "2×2×40" in text


@pytest.mark.usefixtures("small_sweep")
def test_a_rival_that_does_not_run_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(z: Tensor, sigma: Tensor, radius: int) -> providers.Blur:
        raise RuntimeError("no such\ndevice")

    rivals = (
        providers.Provider("alike", providers.conv2d),
        providers.Provider("missing", providers.ours, packages=("no-such-package", "nor-this")),
        providers.Provider("wrong", lambda z, sigma, radius: lambda: 2 * z),
        providers.Provider("broken", broken),
        providers.Provider("forward", providers.ours, backward=False),
    )
    monkeypatch.setattr(providers, "RIVALS", rivals)
    rows = measured(kernel_size.SWEEP, brief())
    assert len(rows) == 2 * 2 * (2 + len(rivals))
    found = {(row["provider"], row["direction"]): row for row in rows}
    assert found["akm_triton", "forward"]["status"] == "ok"
    assert found["alike", "forward+backward"]["gelements"] > 0
    assert found["missing", "forward"]["note"] == "no-such-package is not installed"
    assert found["wrong", "forward"]["status"] == "failed"
    assert "relative error" in found["wrong", "forward"]["note"]
    assert found["broken", "forward"]["note"] == "RuntimeError: no such device"
    assert found["forward", "forward+backward"]["note"] == "forward only"
    text = kernel_size.table(rows)
    for line in ("missing: no-such-package", "RuntimeError: no such device", "ours / best rival"):
        assert line in text


@pytest.mark.usefixtures("small_sweep")
def test_a_rival_too_slow_is_left_out_from_there_on(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def slow(z: Tensor, sigma: Tensor, radius: int) -> providers.Blur:
        built.append(radius)
        blur = providers.ours(z, sigma, radius)

        def call() -> Tensor:
            time.sleep(0.02)
            return blur()

        return call

    monkeypatch.setattr(providers, "RIVALS", (providers.Provider("slow", slow, backward=False),))
    rows = measured(kernel_size.SWEEP, Setting(CPU, Budget("brief", 0.01, 0.01, 0)))
    notes = [r["note"] for r in rows if r["provider"] == "slow" and r["direction"] == "forward"]
    assert len(notes) == 2 and all("s a call at K=3, over 0.01 s" in note for note in notes)
    assert built == [1]


def test_the_copy_is_no_rival() -> None:
    rows = [
        {"provider": name, "status": "ok", "p50": seconds}
        for name, seconds in (("akm_triton", 1.0), ("conv2d separable", 2.0), ("copy", 0.1))
    ]
    assert comparison.ratio(rows) == 2.0
    assert comparison.ratio(rows[:1]) is None
    lighter = [*rows, {"provider": "scipy, one σ", "status": "ok", "p50": 0.5}]
    assert comparison.ratio(lighter) == 2.0
    assert comparison.ratio(lighter, lighter=True) == 0.5


def test_the_copy_is_what_bytes_are_held_against() -> None:
    rows = {
        row["provider"]: row
        for row in comparison.Comparison(BRIEF, ()).rows(POINT, "forward+backward")
    }
    copy, mine = rows["copy"], rows["akm_triton"]
    elements = 2 * 4 * 20 * 17
    assert (copy["bytes"], mine["bytes"]) == (2 * 4 * elements, 5 * 4 * elements)
    assert copy["of_copy"] == 1.0
    assert mine["of_copy"] == pytest.approx(2.5 * copy["p50"] / mine["p50"], rel=2e-3)


def test_a_slope_is_that_of_the_logarithms() -> None:
    rows: list[Row] = [
        {"status": "ok", "shape": [n, 2, 3, 4], "p50": 1e-6 * (24 * n) ** 0.75} for n in (1, 4, 32)
    ]
    assert scaling.slope(rows) == pytest.approx(0.75)
    assert scaling.slope(rows[:1]) is None


def test_an_inexact_rival_shows_in_the_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    def inexact(z: Tensor, sigma: Tensor, radius: int) -> providers.Blur:
        blur = providers.conv2d(z, sigma, radius)
        return lambda: 1.01 * blur()

    monkeypatch.setattr(providers, "RIVALS", (providers.Provider("inexact", inexact),))
    rows = measured(accuracy.SWEEP, Setting(CPU, TINY, (torch.float32,)))
    found = {(row["provider"], row["what"]): row for row in rows}
    for what in accuracy.WHAT:
        assert found["inexact", what]["max"] == pytest.approx(0.01, rel=1e-3)
        assert found["inexact", what]["rms"] == pytest.approx(0.01, rel=1e-3)
        assert found["akm_triton", what]["max"] < 1e-6


@pytest.mark.parametrize(
    "sweep", [shapes.SWEEP, scaling.SWEEP, accuracy.SWEEP, train_step.SWEEP], ids=lambda s: s.name
)
def test_a_sweep_saves_prints_and_is_drawn(sweep: Sweep, tmp_path: Path) -> None:
    generator = torch.get_rng_state()
    out = tmp_path / "here.json"
    rows, path = sweep.run(Setting(CPU, TINY), out)
    record = json.loads(path.read_text("utf-8"))
    assert path == out and record["rows"] == rows and record["complete"]
    check_schema(record)
    assert {row["status"] for row in rows} <= {"ok", "missing", "skipped", "failed"}
    assert len(sweep.table(rows).splitlines()) > 3
    plt.close(import_module(f"plots.{sweep.name.replace('-', '_')}").draw(record))
    assert sweep is train_step.SWEEP or torch.equal(torch.get_rng_state(), generator)


def test_a_sweep_out_of_time_keeps_what_it_has(tmp_path: Path) -> None:
    def measure(setting: Setting) -> Iterator[list[Row]]:
        for number in range(100):
            time.sleep(0.01)
            yield [{"number": number, "status": "ok"}]

    rows, path = Sweep("some", measure, str, "").run(Setting(CPU, TINY), tmp_path, seconds=0.05)
    record = json.loads(path.read_text("utf-8"))
    assert 0 < len(rows) < 100 and record["rows"] == rows and not record["complete"]


@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_a_quick_sweep_leaves_the_committed_results(
    quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path / "committed")
    monkeypatch.setattr(results, "LOCAL", tmp_path / "local")
    sweep = Sweep("some", lambda setting: iter([[{"status": "ok"}]]), str, "")
    sweep.main(["--device", "cpu", *(["--quick"] if quick else [])])
    (path,) = tmp_path.rglob("some.json")
    assert path.is_relative_to(tmp_path / ("local" if quick else "committed"))


def test_a_sweep_that_fails_keeps_what_it_has(tmp_path: Path) -> None:
    def measure(setting: Setting) -> Iterator[list[Row]]:
        yield [{"number": 0, "status": "ok"}]
        raise RuntimeError("the driver is gone")

    with pytest.raises(RuntimeError, match="driver"):
        Sweep("some", measure, str, "").run(Setting(CPU, TINY), tmp_path)
    (path,) = tmp_path.rglob("some.json")
    record = json.loads(path.read_text("utf-8"))
    assert len(record["rows"]) == 1 and not record["complete"]


def test_a_sweep_of_nothing_leaves_the_last_result(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="some: there is nothing to measure on cpu"):
        Sweep("some", lambda setting: iter(()), str, "").run(Setting(CPU, TINY), tmp_path)
    assert not list(tmp_path.rglob("some.json"))


@pytest.mark.parametrize("name", networks.DEPTHS)
def test_networks_differ_in_their_convolutions_alone(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    akm_net = networks.resnet(name, akm.AKMConv2d, classes=5, width=4).double()
    composed = networks.resnet(name, networks.ComposedConv2d, classes=5, width=4).double()
    composed.load_state_dict(akm_net.state_dict())
    y = akm_net(x)
    torch.testing.assert_close(composed(x), y)
    assert y.shape == (2, 5)
    replaced = [m for m in akm_net.modules() if isinstance(m, akm.AKMConv2d)]
    plain = networks.resnet(name, torch.nn.Conv2d, classes=5, width=4)
    three = [m for m in plain.modules() if getattr(m, "kernel_size", 0) == (3, 3)]
    assert len(replaced) == len(three) == sum(networks.DEPTHS[name]) * (1 if "50" in name else 2)


def test_networks_have_the_size_that_is_known() -> None:
    # torchvision's: 11,689,512 and 25,557,032 parameters
    for name, count in (("ResNet-18", 11_689_512), ("ResNet-50", 25_557_032)):
        with torch.device("meta"):
            model = networks.resnet(name, torch.nn.Conv2d)
        assert sum(p.numel() for p in model.parameters()) == count


def test_what_autograd_keeps_is_counted_once() -> None:
    x = torch.ones(1000, requires_grad=True)
    assert train_step._saved(lambda: (x.exp() * x).sum()) == 4000 + 4000  # exp's result, and x


def test_a_graph_without_a_gpu_is_its_calls() -> None:
    ran: list[int] = []
    timing.graph([lambda: ran.append(1), lambda: ran.append(2)], CPU)()
    assert ran == [1, 2, 1, 2]


def test_the_roofline_on_a_gpu_is_of_the_path_that_users_take() -> None:
    work: Any = SimpleNamespace(
        device=torch.device("cuda"), problem=None, taps=(), run=lambda *plan: plan
    )
    assert roofline._call(work)() == ()  # not by a plan of its own


def test_interleaved_quantiles() -> None:
    found = timing.interleaved({"short": lambda: None, "long": lambda: time.sleep(2e-3)}, CPU, 0.05)
    assert all(0 < q.p20 <= q.p50 <= q.p80 for q in found.values())
    assert found["short"].p50 < found["long"].p50 and found["long"].p50 >= 2e-3


def test_the_digits_command_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits.main(["--epochs", "1", "--device", "cpu", "--out", str(tmp_path)])
    record = results.newest("digits", tmp_path)
    assert record is not None
    assert f"{record['accuracy']:.2%}" in capsys.readouterr().out
    assert [row["epoch"] for row in record["rows"]] == [1]
    assert [len(layer["end"]["sigma"]) for layer in record["layers"]] == [16, 32]
    assert {*record["layers"][0]["start"]["sigma"]} == {0.3}
