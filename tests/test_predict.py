"""The prediction from machine code: what is read, what is counted, and what the core plays."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from scipy import stats

from akm_triton.launch.device import H200
from akm_triton.launch.plan import Launch, tile
from akm_triton.launch.problem import Problem
from bench.predict import calibration, candidates, cases, dimensions, launches, sass, sweep
from bench.predict.bounds import bounds
from bench.predict.command import main
from bench.predict.estimate import estimate
from bench.predict.loops import path
from bench.predict.machine import MACHINES, Machine
from bench.predict.needs import need
from bench.predict.sass import Instruction
from bench.predict.simulation import play
from bench.predict.work import Work
from bench.sweep import TINY, Setting
from plots import model

H100 = MACHINES["H100"]
CPU = torch.device("cpu")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def listing(lines: Iterable[tuple[str, int]]) -> str:
    """As nvdisasm prints it: an instruction and its control bits, or a label."""
    text = ""
    for n, (line, control) in enumerate(lines):
        if line.startswith("."):
            text += f"{line}:\n"
        else:
            text += f"        /*{16 * n:04x}*/  {line} ;  /* 0x0000000000000000 */\n"
            text += f"                         /* 0x{control << 41:016x} */\n"
    return text


def code(*lines: str) -> list[Instruction]:
    return sass.parse(listing((line, 1 | 7 << 5 | 7 << 8) for line in lines))


def work(**changes: Any) -> Work:
    given: dict[str, Any] = dict(
        name="some", cubin=b"", num_warps=1, shared=0, programs=1, images=1.0, blocks=1.0,
        reads=0.0, requests=0.0, writes=0.0,
    )  # fmt: skip
    return Work(**given | changes)


def test_control_bits_are_read() -> None:
    found = sass.parse(
        listing(
            [
                (".L_x_0", 0),
                ("@P0 LDG.E.128 R4, [R2.64]", 4 | 2 << 5 | 3 << 8 | 0b100001 << 11),
                ("@!P1 BRA `(.L_x_0)", 15 | 7 << 5 | 7 << 8),
                ("EXIT", 1 | 7 << 5 | 7 << 8),
                ("FADD R0, R0, R1", 1 | 7 << 5 | 7 << 8),  # of a subroutine
            ]
        )
    )
    load, branch, end = found
    assert (load.op, load.predicate, load.width) == ("LDG.E.128", "@P0", 16)
    assert (load.stall, load.sets, load.reads, load.waits) == (4, 2, 3, 0b100001)
    assert (branch.target, branch.stall, branch.sets, branch.reads) == (0, 15, None, None)
    assert end.base == "EXIT"


FLAT = ("MOV R0, R1", ".L_x_0", "LDG.E R0, [R2]", "STG.E [R2], R0", "@P0 BRA `(.L_x_0)", "EXIT")
NESTED = (
    "MOV R0, R1", ".L_x_1", "MOV R2, R3", ".L_x_0", "LDG.E R0, [R2]", "@P0 BRA `(.L_x_0)",
    "STG.E [R2], R0", "@P1 BRA `(.L_x_1)", "EXIT",
)  # fmt: skip


def test_one_loop_over_all_tiles_or_two() -> None:
    flat = path(code(*FLAT), images=5, blocks=3)
    assert (flat.before, flat.body, flat.after, flat.rounds) == ([0], [1, 2, 3], [4], 15)
    nested = path(code(*NESTED), images=5, blocks=3)
    assert nested.body == [1, *(2, 3) * 3, 4, 5] and nested.rounds == 5
    straight = path(code("MOV R0, R1", "EXIT"), images=5, blocks=3)
    assert (straight.body, straight.rounds) == ([0, 1], 1)


def test_a_branch_around_a_division_is_taken_and_others_are_not() -> None:
    around = path(code("@P0 BRA `(.L_x_0)", "CALL.REL `(x)", ".L_x_0", "EXIT"), 1, 1)
    through = path(code("@P0 BRA `(.L_x_0)", "MOV R0, R1", ".L_x_0", "EXIT"), 1, 1)
    assert (around.body, through.body) == ([0, 2], [0, 1, 2])


def test_products_take_what_the_peak_rate_says() -> None:
    """989 TFLOP/s dense in half precision at 1.83 GHz are 4096 a clock and multiprocessor, 1024 for
    each scheduler; half of it in TF32."""
    half, tf32, mma, halves = code(
        "HGMMA.64x64x16.F32 R24, gdesc[UR8], R24",
        "HGMMA.64x64x8.F32.TF32 R24, R4, gdesc[UR8], R24",
        "HMMA.16816.F32 R4, R8, R12, R4", "HMMA.1688.F32.TF32 R4, R8, R12, R4",
    )  # fmt: skip
    assert need(half, H100).cycles == 64 * 64 * 16 * 2 / 4096
    assert need(tf32, H100).cycles == 64 * 64 * 8 * 2 / 2048
    # A of 64×16 and B of 16×64 in shared memory, two bytes each, for four warps; A in registers
    assert 4 * need(half, H100).shared == (4 * 16 * 16 * 2 + 16 * 64 * 2) / 128
    assert 4 * need(tf32, H100).shared == 8 * 64 * 4 / 128
    assert need(mma, H100).cycles == pytest.approx(16 * 8 * 16 * 2 / 1024 / H100.mma_rate)
    assert need(halves, H100).cycles == need(mma, H100).cycles


def test_scattered_accesses_take_a_turn_for_each_sector() -> None:
    (load,) = code("LDG.E.128 R4, [R2]")
    assert need(load, H100).cycles == 4  # 512 bytes
    assert need(load, H100, scattered=1).cycles == 16 / H100.sectors
    assert need(load, H100, scattered=2).cycles == 32 / H100.sectors


def test_what_the_model_does_not_know_is_named() -> None:
    with pytest.raises(ValueError, match=r"knows no UTMALDG\.2D"):
        need(code("UTMALDG.2D [UR8], [UR4]")[0], H100)


@pytest.mark.parametrize(
    ("registers", "num_warps", "shared", "programs"),
    [
        (128, 4, 0, 4),
        (129, 4, 0, 3),
        (255, 8, 0, 1),
        (32, 4, 0, 16),
        (41, 4, 0, 10),  # 48 are given
        (32, 4, 58_000, 3),  # four programs need a kilobyte each besides
    ],
)
def test_programs_on_a_multiprocessor(
    registers: int, num_warps: int, shared: int, programs: int
) -> None:
    assert H100.resident(registers, num_warps, shared) == programs


def test_a_bound_is_what_is_taken_over_what_there_is() -> None:
    found = code(*FLAT)
    moved = work(num_warps=4, images=2, reads=1000.0, requests=3000.0, writes=500.0)
    limits = bounds(found, path(found, 2, 1), moved, H100)
    bytes_a_clock = 3.0e12 / 132 / 1.755e9
    assert limits["dram"] == pytest.approx(1500 / 2 / bytes_a_clock)
    assert limits["l2"] == pytest.approx(3500 / 2 / (6.5e12 / 132 / 1.755e9))
    assert (limits["lsu"], limits["issue"]) == (4 * 2, 4 * 3 / 4)


# The core. Every time is worked out by hand.

BARE = Machine("bare", latency=500, barrier=0, fence=0, start=0)
FREE = 7 << 5 | 7 << 8  # no scoreboard is set


def clocks(
    lines: Iterable[tuple[str, int]], given: Work | None = None, *, resident: int = 1,
    programs: int = 1, machine: Machine = BARE,
) -> float:  # fmt: skip
    found, given = sass.parse(listing(lines)), given or work()
    way = path(found, given.images, given.blocks)
    return play(
        found, way, given, machine, resident=resident, programs=programs, rounds=way.rounds
    ).clocks


@needs_cc
def test_a_warp_stalls_as_its_code_says() -> None:
    chain = [("FADD R0, R0, R1", 4 | FREE)] * 10 + [("EXIT", 1 | FREE)]
    assert clocks(chain) == 41
    # two warps of a scheduler take turns, and issue in the other's stalls
    assert clocks(chain, resident=5, programs=5) == pytest.approx(97 * 4 + 41, abs=2)


@needs_cc
def test_two_multiply_adds_a_clock_are_too_many() -> None:
    """An IMAD occupies the pipe of its scheduler for two clocks, four warps one each."""
    busy = [("IMAD R0, R0, R1, R2", 1 | FREE)] * 100 + [("EXIT", 1 | FREE)]
    assert clocks(busy, work(num_warps=4)) == pytest.approx(200, abs=2)
    assert clocks(busy, work(num_warps=8)) == pytest.approx(400, abs=2)


LOAD, WAIT = ("LDG.E R0, [R2]", 1 | 0 << 5 | 7 << 8), ("FADD R0, R0, R1", 4 | FREE | 1 << 11)


@needs_cc
def test_a_load_is_waited_for() -> None:
    rounds = 20
    loop = [(".L_x_0", 0), LOAD, WAIT, ("@P0 BRA `(.L_x_0)", 5 | FREE), ("EXIT", 1 | FREE)]
    given = work(images=rounds, reads=rounds * 1.0, requests=rounds * 1.0)
    once = 1 + BARE.latency + 4 + 5
    assert clocks(loop, given) == pytest.approx(rounds * once, rel=0.01)
    # two resident programs hide each other's latency
    two = clocks(loop, given, resident=2, programs=2)
    assert two == pytest.approx(97 + rounds * once, rel=0.01)
    assert clocks(loop, given, resident=1, programs=2) == pytest.approx(2 * rounds * once, rel=0.01)


@needs_cc
def test_memory_serves_no_faster_than_its_rate() -> None:
    rounds, moved = 50, 1e6
    loop = [(".L_x_0", 0), LOAD, ("@P0 BRA `(.L_x_0)", 5 | FREE), ("EXIT", 1 | FREE)]
    least = moved / (3.0e12 / 132 / 1.755e9)
    copied = [*loop[:2], ("STG.E [R2], R0", 1 | FREE | 1 << 11), *loop[2:]]
    given = work(images=rounds, reads=moved / 2, requests=moved / 2, writes=moved / 2)
    latency = rounds * BARE.latency
    assert clocks(copied, given) == pytest.approx(least + latency, rel=0.01)
    # programs together wait for memory alone
    together = clocks(copied, given, resident=8, programs=8)
    assert 8 * least <= together <= 8 * least + 2 * BARE.latency


def pipelined(pending: int) -> list[tuple[str, int]]:
    """A loop that asks for a tile by cp.async and waits until so many are still to come."""
    ask = [("LDGSTS.E.128 [R0], [R2]", 1 | FREE), ("LDGDEPBAR", 1 | FREE)]
    return [
        *ask * pending, (".L_x_0", 0), *ask,
        (f"DEPBAR.LE SB0, 0x{pending:x}", 1 | FREE),
        ("FADD R0, R0, R1", 10 | FREE), ("@P0 BRA `(.L_x_0)", 5 | FREE), ("EXIT", 1 | FREE),
    ]  # fmt: skip


@needs_cc
def test_only_copies_that_may_stay_pending_overlap() -> None:
    rounds = 100
    given = work(images=rounds, reads=1.0, requests=1.0)
    one, two, five = (clocks(pipelined(pending), given) / rounds for pending in (0, 1, 4))
    assert one == pytest.approx(BARE.latency, rel=0.1)
    assert two == pytest.approx(BARE.latency / 2, rel=0.1)
    assert five == pytest.approx(BARE.latency / 5, rel=0.1)


@needs_cc
def test_a_barrier_waits_for_the_last_warp() -> None:
    machine = Machine("some", barrier=100, fence=30)
    early = [("BAR.SYNC 0x0", 1 | FREE), ("FENCE.VIEW.ASYNC.S", 1 | FREE), ("EXIT", 1 | FREE)]
    # eight warps, two for each scheduler: the last one issues a clock later
    assert clocks(early, work(num_warps=8), machine=machine) == pytest.approx(132, abs=4)


@needs_cc
def test_a_long_launch_is_a_straight_line(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = sass.parse(
        listing([(".L_x_0", 0), LOAD, WAIT, ("@P0 BRA `(.L_x_0)", 5 | FREE), ("EXIT", 1 | FREE)])
    )
    kernel = sass.Kernel(loop, 200, 0)
    for programs, images in ((132 * 50, 4), (132 * 2, 400), (132 * 5, 100)):
        given = work(programs=programs, images=images, num_warps=8, reads=9e3, requests=9e3)
        whole = estimate(given, kernel, H100)
        with monkeypatch.context() as patch:
            patch.setattr("bench.predict.estimate.EVENTS", 2000)
            assert estimate(given, kernel, H100).seconds == pytest.approx(whole.seconds, rel=0.05)
        assert max(whole.limits.values()) <= whole.seconds


def test_a_launch_moves_each_map_once(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = SimpleNamespace(asm={"cubin": b""}, metadata=SimpleNamespace(shared=0))
    monkeypatch.setattr(launches, "compile_call", lambda *_: nothing)
    problem = Problem("blur", 32, 8, 28, 28, 3, "symmetric", 2, False)
    plan = (Launch(tile(problem, (1, 32, 32), num_warps=4), dz=True),)
    (found,) = launches.works(plan, problem, torch.float16, H200)
    assert found.bytes == pytest.approx(problem.bytes)
    assert found.programs * found.images == 32 * 8 and found.blocks == 1
    assert found.scattered == 0
    last = problem._replace(channels_last=True)
    (found,) = launches.works((Launch(tile(last, (8, 16, 32), num_warps=4), dz=True),), last,
                              torch.float16, H200)  # fmt: skip
    assert found.scattered == 2 and found.blocks == 2  # 8 planes of 2 bytes in 32
    assert found.requests > found.reads


@pytest.mark.parametrize(("op", "maps"), [("blur", 2), ("blur_backward", 3)])
@pytest.mark.parametrize(
    ("shape", "kernels"),
    [((2, 3, 640), ["across"]), ((2, 3, 4, 40, 24), ["", "down"])], ids=["signal", "volume"],
)  # fmt: skip
def test_a_signal_is_one_launch_and_a_volume_one_more(
    shape: tuple[int, ...], kernels: list[str], op: str, maps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = SimpleNamespace(asm={"cubin": b""}, metadata=SimpleNamespace(shared=0))
    monkeypatch.setattr(launches, "compile_call", lambda *_: nothing)
    case = dimensions.Case(op, shape, torch.float16, 3)
    found = case.works()
    assert len(found) == len(kernels)
    assert all(x.name.startswith(name) for x, name in zip(found, kernels, strict=True))
    assert case.bytes == maps * 2 * math.prod(shape)
    assert sum(x.bytes for x in found) == pytest.approx(len(kernels) * case.bytes)


@needs_cc
def test_a_signal_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dimensions, "calibration", list)
    monkeypatch.setattr(dimensions, "stated", lambda _: "Calibration")
    sweep = replace(dimensions.SWEEP, facts=dict)
    (row,), _ = sweep.run(Setting(CPU, TINY), tmp_path / "tiny.json")
    assert row["status"] == "predicted" and row["moved"] == row["bytes"] == 2 * 2 * 2 * 64 * 2
    assert 0 < row["low"] <= row["of_copy"] <= min(row["bound"], row["high"]) <= 1
    assert "a model" in sweep.table([row]) and "2×2×64" in sweep.table([row])
    failed = {**row, "status": "failed", "note": "no"}
    assert sweep.table([failed]).count("failed") == 6


@needs_cc
def test_the_copy_kernel_is_as_fast_as_a_copy() -> None:
    given = calibration._copy(4096, 4)
    found = estimate(given, sass.disassemble(given.cubin), H100)
    assert 0.95 <= given.bytes / H100.dram / found.seconds <= 1


@needs_cc
def test_a_prediction_is_saved_printed_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"kernel": "copy", "unit": "", "model": 0.98, "known": ""}
    product = {"kernel": "matrix product", "unit": "", "model": 500, "known": ""}
    monkeypatch.setattr(sweep, "calibration", lambda: [known, product])
    rows, _ = sweep.SWEEP.run(Setting(CPU, TINY), tmp_path / "tiny.json")
    record = json.loads((tmp_path / "tiny.json").read_text())
    (row,) = record["rows"]
    assert record["complete"] and row == rows[0] and row["status"] == "predicted"
    assert 0 < row["low"] <= row["of_copy"] <= min(row["bound"], row["high"]) <= 1
    assert row["predicted"] * row["of_copy"] == pytest.approx(row["least"], rel=1e-3)
    assert row["sensitivity"]["latency 1500"] < row["of_copy"] < row["sensitivity"]["latency 700"]
    assert {x["name"] for x in record["assumptions"]} >= {"latency", "dram", "l2", "sectors"}
    assert all(x["source"] for x in record["assumptions"]) and record["left_out"]
    assert record["calibration"]["stated"] in sweep.table(rows)
    figure = model.draw(record)
    plt.close(figure)
    assert "0.98 to 0.98 of a copy" in " ".join(figure.get_suptitle().split())

    main(["--dtype", "float16", "--layout", "nchw", "--size", "14", "--radius", "3", "--op", "blur",
          "--batch", "32", "--set", "latency=100", "--out", str(tmp_path)])  # fmt: skip
    (changed,) = json.loads(next(tmp_path.glob("*/predict.json")).read_text())["rows"]
    assert changed["of_copy"] > row["of_copy"]
    assert "a model" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--set", "speed=3"])
    assert "--set takes name=number, of multiprocessors, clock" in capsys.readouterr().err


def test_the_grid_is_that_of_the_usual_networks() -> None:
    found = cases.WHOLE.cases()
    assert len(found) == len(set(found)) == 2 * 2 * 5 * 3 * 2
    assert {(p.c, p.h) for p, _ in found} == {(512, 14), (256, 28), (128, 56), (64, 112), (64, 224)}


@needs_cc
def test_the_order_of_candidates_is_compared(tmp_path: Path) -> None:
    rows, _ = candidates.SWEEP.run(Setting(CPU, TINY), tmp_path / "tiny.json")
    assert [row["place"] for row in rows] == [0, rows[0]["of"] - 1]
    assert rows[0]["effort"] < rows[1]["effort"]
    assert all(row["status"] == "predicted" and row["predicted"] > 0 for row in rows)
    first = 1 if rows[0]["predicted"] < rows[1]["predicted"] else -1
    assert candidates.table(rows).endswith(f"mean {first:.2f}")


@pytest.mark.parametrize("other", [[3, 1, 2, 5, 4], [1, 1, 2, 2, 3], [5, 4, 3, 2, 1]], ids=str)
def test_a_rank_correlation_is_scipys(other: list[float]) -> None:
    one = [0.1, 0.5, 0.5, 2.0, 7.0]
    assert candidates.spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
