"""What of ``bench`` needs the kernels, interpreted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from akm_triton.backend import triton as triton_backend
from bench import campaign, correctness, results, small_maps
from bench.sweep import TINY, Setting

STATUS = {"ok", "skipped", "missing", "predicted"}


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(("correctness", "launch"), id="two steps"),
        pytest.param(tuple(campaign.STEPS), id="every step", marks=pytest.mark.whole),
    ],
)
def test_the_campaign_is_rehearsed_and_resumed(
    steps: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(campaign, "STEPS", {name: campaign.STEPS[name] for name in steps})
    campaign.main(["--rehearse", "--out", str(tmp_path)])
    log = json.loads((tmp_path / "campaign.json").read_text())
    assert {name: found["status"] for name, found in log.items()} == dict.fromkeys(steps, "done")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir() and path.name != "tables")
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert set(found) == set(steps)
    for name, record in found.items():
        assert record["sweep"] == name and set(results.SCHEMA) <= record.keys() and record["rows"]
    rows = found["correctness"]["rows"]
    assert len(rows) == 48 and all(row["right"] for row in rows), rows
    for name in set(found) - {"tune-device"}:
        assert {row["status"] for row in found[name]["rows"]} <= STATUS, name
    assert sum(1 for path in tmp_path.rglob("*") if path.is_file()) <= 12
    assert "0 wrong" in capfd.readouterr().out
    log["launch"]["status"] = "failed, exit status 1"
    (tmp_path / "campaign.json").write_text(json.dumps(log))
    campaign.main(["--rehearse", "--out", str(tmp_path)])
    out = capfd.readouterr().out
    assert "== launch" in out and "== correctness" not in out


def test_a_step_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def process(name: str, *others: object) -> str:
        ran.append(name)
        return "failed, exit status 1" if name == "roofline" else "done"

    monkeypatch.setattr(campaign, "_process", process)
    with pytest.raises(SystemExit):
        campaign.main(["--rehearse", "--out", str(tmp_path)])
    assert ran == list(campaign.STEPS)


def test_an_attempt_is_not_overwritten_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = iter("abc")

    def process(name: str, out: Path, *others: object) -> str:
        (out / "gpu").mkdir(exist_ok=True)
        if name == "launch":
            (out / "gpu" / "launch.json").write_text(next(attempts))
            return "stopped, out of time"
        return "done"

    monkeypatch.setattr(campaign, "_process", process)
    for _ in range(3):
        assert not campaign.campaign(tmp_path, 9.0, rehearse=True)
    found = {path.name: path.read_text() for path in (tmp_path / "gpu").iterdir()}
    assert found == {"launch.1.json": "a", "launch.2.json": "b", "launch.json": "c"}


def test_a_rival_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(small_maps, "RIVALS", (("conv2d separable", broken),))
    monkeypatch.setattr(small_maps, "OPS", ("blur",))
    setting = Setting(torch.device("cpu"), TINY)
    rows = [row for point in small_maps.SWEEP.measure(setting) for row in point]
    status = {row["provider"]: row["status"] for row in rows}
    assert status == {"akm_triton": "ok", "identity": "ok", "conv2d separable": "failed"}
    assert "conv2d separable, 2×2×7×7: RuntimeError: no such kernel" in small_maps.table(rows)


def test_a_wrong_result_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = triton_backend.blur
    monkeypatch.setattr(triton_backend, "blur", lambda *args: 1.01 * right(*args))
    monkeypatch.setattr(correctness, "OPS", ("blur", "tap_grads"))
    setting = Setting(torch.device("cpu"), TINY)
    rows = [row for point in correctness.SWEEP.measure(setting) for row in point]
    assert [row["right"] for row in rows] == [row["problem"].startswith("tap") for row in rows]
    assert f"{len(rows)} cases, {len(rows) // 2} wrong" in correctness.table(rows)
