"""The benchmarks: what they write, whom they compare, and what the figures show."""

import json
import os
import shutil
import time
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

import akm_triton as akm
from bench import __main__ as command_line
from bench import demo, peers, results, sweeps, timing

CPU = torch.device("cpu")
POINT = sweeps.Point((2, 4, 20, 17), 3, CPU)
EVERYONE = [pytest.param(peer, id=peer.name) for peer in (peers.OURS, *peers.RIVALS)]
ROWS = [{"peer": "a", "gelements": 1.5}]


def test_a_result_has_the_schema_and_reads_back(tmp_path: Path) -> None:
    path = results.save("sweep", CPU, ROWS, tmp_path, extra=[1, 2])
    record = json.loads(path.read_text("utf-8"))
    assert set(results.SCHEMA) <= set(record)
    assert record["rows"] == ROWS
    assert record["extra"] == [1, 2]
    assert path.parent.name == results.slug(record["device"])
    assert results.latest("sweep", tmp_path) == record


def test_the_newest_result_is_drawn(tmp_path: Path) -> None:
    for name, date in (("old", "2024-01-01"), ("new", "2025-01-01")):
        results.write_json(tmp_path / name / "sweep.json", {"date": date, "rows": []})
    assert results.latest("sweep", tmp_path)["date"] == "2025-01-01"
    with pytest.raises(FileNotFoundError, match="other"):
        results.latest("other", tmp_path)


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


@pytest.mark.parametrize("sweep", ["digits", "kernel-size", "launch"])
def test_committed_results_have_the_schema(sweep: str) -> None:
    for path in results.ROOT.glob(f"*/{sweep}.json"):
        record = json.loads(path.read_text("utf-8"))
        assert set(results.SCHEMA) <= set(record)
        assert record["sweep"] == sweep
        assert path.parent.name == results.slug(record["device"])
        assert record["rows"]


def test_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"digits", "kernel-size", "campaign", "launch", "codegen"} <= set(listed)
    for module, purpose in command_line.COMMANDS.values():
        assert purpose and find_spec(module)
    assert command_line.main(["unknown"]) == 2


def prepared(peer: peers.Peer, backward: bool) -> sweeps.Inputs:
    """Inputs, after a check that the peer agrees with the float64 blur; skips one not here."""
    if peer.compiles and shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    given = sweeps.inputs(POINT, backward)
    try:
        # relative error up to TOLERANCES: the rounding of float32 taps and one map between passes
        sweeps.prepare(peer, POINT, given, sweeps.QUICK)
    except sweeps.LeftOut as reason:
        if reason.status == "missing":
            pytest.skip(reason.note)
        raise
    except Exception as error:
        if peer.package is None:
            raise
        pytest.skip(f"{peer.package} does not run here: {error}")
    return given


@pytest.mark.parametrize("peer", EVERYONE)
def test_every_peer_blurs_alike(peer: peers.Peer) -> None:
    prepared(peer, backward=False)


@pytest.mark.parametrize("peer", [p for p in EVERYONE if p.values[0].backward])
def test_every_peer_has_the_same_gradients(peer: peers.Peer) -> None:
    given = prepared(peer, backward=True)
    z, sigma = given.z, given.shared_sigma if peer.shared else given.sigma
    found = torch.autograd.grad(peer.build(z, sigma, POINT.radius)(), (z, sigma), given.g)
    exact = [x.detach().double().requires_grad_() for x in (z, sigma)]
    y = akm.gaussian_blur(
        *exact, gaussian="sampled", border="zeros", max_radius=POINT.radius, backend="torch"
    )
    for x, expected in zip(found, torch.autograd.grad(y, exact, given.g.double()), strict=True):
        torch.testing.assert_close(x.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def small_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sweeps.MAPS, "cpu", [POINT.shape])
    monkeypatch.setattr(sweeps, "RADII", (1, 3))


@pytest.mark.usefixtures("small_sweep")
def test_a_rival_that_does_not_run_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(z: Tensor, sigma: Tensor, radius: int) -> peers.Blur:
        raise RuntimeError("no such\ndevice")

    rivals = (
        peers.Peer("alike", peers.conv2d),
        peers.Peer("missing", peers.ours, package="no-such-package"),
        peers.Peer("wrong", lambda z, sigma, radius: lambda: 2 * z),
        peers.Peer("broken", broken),
        peers.Peer("forward", peers.ours, backward=False),
    )
    monkeypatch.setattr(peers, "RIVALS", rivals)
    rows = sweeps.kernel_size(CPU, sweeps.Effort(0.01, slowest=60, compiled_radius=0, maps=1))
    assert len(rows) == 2 * 2 * (1 + len(rivals))
    found = {(row["peer"], row["direction"]): row for row in rows}
    assert found["akm_triton", "forward"]["status"] == "ok"
    assert found["alike", "forward+backward"]["gelements"] > 0
    assert found["missing", "forward"]["note"] == "no-such-package is not installed"
    assert found["wrong", "forward"]["status"] == "failed"
    assert "relative error" in found["wrong", "forward"]["note"]
    assert found["broken", "forward"]["note"] == "RuntimeError: no such device"
    assert found["forward", "forward+backward"]["note"] == "forward only"
    text = sweeps.table(rows)
    for line in ("missing: no-such-package", "RuntimeError: no such device", "ours / best rival"):
        assert line in text


@pytest.mark.usefixtures("small_sweep")
def test_a_rival_too_slow_is_left_out_from_there_on(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def slow(z: Tensor, sigma: Tensor, radius: int) -> peers.Blur:
        built.append(radius)
        blur = peers.ours(z, sigma, radius)

        def call() -> Tensor:
            time.sleep(0.02)
            return blur()

        return call

    monkeypatch.setattr(peers, "RIVALS", (peers.Peer("slow", slow, backward=False),))
    rows = sweeps.kernel_size(CPU, sweeps.Effort(0.01, slowest=0.01, compiled_radius=0, maps=1))
    notes = [r["note"] for r in rows if r["peer"] == "slow" and r["direction"] == "forward"]
    assert len(notes) == 2 and all("s a call at K=3, over 0.01 s" in note for note in notes)
    assert built == [1]


def test_the_copy_is_no_rival() -> None:
    cells: sweeps.Cells = {
        (name, 3): {"status": "ok", "gelements": speed}
        for name, speed in (("akm_triton", 2.0), ("conv2d separable", 1.0), ("copy", 9.0))
    }
    assert sweeps.ours_by_best(cells, 3) == 2.0
    assert sweeps.ours_by_best(cells, 7) is None


def test_interleaved_quantiles() -> None:
    found = timing.interleaved({"short": lambda: None, "long": lambda: time.sleep(2e-3)}, CPU, 0.05)
    assert all(0 < q.p20 <= q.p50 <= q.p80 for q in found.values())
    assert found["short"].p50 < 2e-3 <= found["long"].p50


def test_the_digits_command_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.main(["--epochs", "1", "--device", "cpu", "--output", str(tmp_path)])
    record = results.latest("digits", tmp_path)
    assert f"{record['accuracy']:.2%}" in capsys.readouterr().out
    assert [row["epoch"] for row in record["rows"]] == [1]
    assert [len(layer["end"]["sigma"]) for layer in record["layers"]] == [16, 32]
    assert {*record["layers"][0]["start"]["sigma"]} == {0.3}


def test_the_kernel_size_figure_shows_the_file() -> None:
    from plots import kernel_size

    sweep = results.latest("kernel-size")
    figure = kernel_size.draw(sweep)
    drawn = [y for axis in figure.axes for bars in axis.containers for y in bars[0].get_ydata()]
    measured = [row["gelements"] for row in sweep["rows"] if row["status"] == "ok"]
    assert sorted(drawn) == sorted(measured)
    plt.close(figure)


def test_the_blur_figure_shows_the_file() -> None:
    from plots import blur

    digits = results.latest("digits")
    figure = blur.draw(digits)
    channels = sum(len(layer["end"]["sigma"]) for layer in digits["layers"])
    for axis in figure.axes[-2:]:
        assert sum(bar.get_height() for bars in axis.containers for bar in bars) == channels
    assert blur.photographs().shape == (2, 3, *blur.SIZE)
    plt.close(figure)
