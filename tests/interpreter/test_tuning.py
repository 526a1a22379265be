"""The tuner from end to end, interpreted; and the traffic of the plans, counted load by load."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import akm_triton as akm
from akm_triton.backend import sequences
from akm_triton.backend import triton as triton_backend
from akm_triton.backend.launcher import Launcher
from akm_triton.backend.layout import empty_like
from akm_triton.launch import choice, store
from akm_triton.launch.axis import Axis, steps
from akm_triton.launch.device import describe
from akm_triton.launch.plan import Config, Launch, Plan, tile, to_json
from akm_triton.launch.problem import Problem
from akm_triton.launch.rule import rule
from akm_triton.launch.sliding import Sliding
from akm_triton.tuning import session, tuner
from akm_triton.tuning.traffic import traffic
from akm_triton.tuning.workload import Workload
from bench import tune_device
from tests.processes import in_two_processes

CPU = torch.device("cpu")
DEVICE = describe(CPU)
BLUR = Problem("blur", 2, 2, 20, 18, 3, "symmetric", 4, False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("AKM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AKM_BACKEND", "triton")
    choice.forget()
    yield tmp_path / "cache"
    choice.forget()


class Scripted:
    """A clock on which one plan is fast, and the rule takes a second."""

    name = "scripted"

    def __init__(self, fast: Plan) -> None:
        self.fast = fast

    def copies(self, bytes_each: int) -> int:
        return 2

    def seconds(self, plans: Sequence[Plan], work: Workload, rounds: int) -> list[float]:
        return [0.5 if plan == self.fast else 1.0 for plan in plans]


FAST = (Launch(tile(BLUR, (2, 32, 32), num_warps=4), dz=True),)


def tuned(**options: Any) -> tuner.Tuned:
    return tuner.tune_problem(BLUR, CPU, **{"seconds": 60, "most": 6, **options})


def test_the_fastest_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner.space, "candidates", lambda *_: ([FAST], []))
    found = tuned(clock=Scripted(FAST))
    assert (found.plan, found.seconds, found.rule_seconds) == (FAST, 0.5, 1.0)
    assert found.trials[0].plan == rule(BLUR, DEVICE)  # always tried, and first
    assert all(trial.reason is None for trial in found.trials)


def test_a_wrong_one_never_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner.space, "candidates", lambda *_: ([FAST], []))
    right = triton_backend.blur

    def blur(z: Tensor, t: Tensor, border: str, adjoint: bool, plan: Plan, *rest: Any) -> Tensor:
        y = right(z, t, border, adjoint, plan, *rest)
        return 1.001 * y if plan == FAST else y

    monkeypatch.setattr(triton_backend, "blur", blur)
    found = tuned(clock=Scripted(FAST))
    assert found.plan == rule(BLUR, DEVICE) and found.seconds == found.rule_seconds
    (trial,) = [trial for trial in found.trials if trial.plan == FAST]
    assert trial.seconds is None and trial.reason and "wrong: 1." in trial.reason


def test_one_that_fails_is_recorded_and_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner.space, "candidates", lambda *_: ([FAST], []))
    launch = Launcher.__call__

    def failing(self: Launcher, *tensors: Tensor) -> None:
        if "TILE" in self.constants and self.constants["TILE"].PLANES == 2:
            raise RuntimeError("out of resources\nmore")
        launch(self, *tensors)

    monkeypatch.setattr(Launcher, "__call__", failing)
    found = tuned(clock=Scripted(FAST))
    assert found.plan == rule(BLUR, DEVICE)
    (trial,) = [trial for trial in found.trials if trial.plan == FAST]
    assert trial.reason == "RuntimeError: ['out of resources']"


def test_without_time_the_rule_stays() -> None:
    found = tuned(seconds=1e-9)
    assert len(found.trials) == 1 and found.plan == rule(BLUR, DEVICE)


def test_without_a_plan_the_default_runs() -> None:
    work = Workload(BLUR, CPU)
    choice.commit(DEVICE, {BLUR.key: {"plan": to_json(FAST)}})
    with choice.record() as launched:
        (y,) = work.run()
    assert launched == {BLUR: CPU}
    assert torch.equal(y, work.run(FAST)[0])


def test_nan_is_wrong() -> None:
    work = Workload(BLUR, CPU)
    (y,) = work.run(FAST)
    assert work.error((y,)) < 1e-5
    y[1, 1, 3, 3] = torch.nan
    assert work.error((y,)) == torch.inf


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("op", ["blur_adjoint", "blur_pair", "blur_backward", "tap_grads"])
def test_the_rule_is_right_by_the_tuners_own_measure(op: str, per_sample: bool) -> None:
    problem = Problem(op, 6, 2, 20, 18, 3, "reflect", 2, True, per_sample)
    work = Workload(problem, CPU)
    found = work.run(rule(problem, DEVICE))
    assert work.error(found) < 5e-3
    found[-1][0, -1] += 0.1 * found[-1].abs().max()
    assert work.error(found) > 0.05  # each result is looked at, to the last image


def test_random_numbers_and_modes_of_the_caller_stay() -> None:
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu"):
        tuned(most=1)
    assert torch.equal(torch.get_rng_state(), state)


# akm_triton.tune


def test_a_model_is_tuned_and_uses_what_was_found(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(akm.AKMConv2d(2, 3, 3, padding=1), akm.Modulation2d(3, max_radius=3))
    x = torch.randn(2, 2, 9, 8)
    before = model(x)
    results = akm.tune(model, x, seconds=0.5)
    keys = {found.problem.key for found in results}
    assert "blur 32-bit nchw 2x3x9x8 R=3 symmetric" in keys
    assert any(key.startswith("blur_backward 32-bit nchw 2x3x9x8") for key in keys)
    assert all(p.grad is None for p in model.parameters())
    out = capsys.readouterr().out
    assert "rule µs" in out and "no GPU: not times" in out and all(key in out for key in keys)
    assert set(json.loads(store.path_of(DEVICE).read_text())["entries"]) == keys
    choice.forget()  # as in the next process
    for found in results:
        chosen = choice.choose(found.problem, DEVICE)
        assert (chosen.plan, chosen.origin) == (found.plan, "cache")
    torch.testing.assert_close(model(x), before)
    assert akm.tune(model, x) == []
    assert "the cache holds it all" in capsys.readouterr().out


def test_shapes_are_tuned() -> None:
    results = akm.tune(
        [(2, 2, 6, 5)], order=0, seconds=0.2, dtype=torch.float16, max_radius=2, border="reflect",
        memory_format=torch.channels_last, verbose=False, backend="triton",
    )  # fmt: skip
    (found,) = results
    assert found.problem.key == "blur 16-bit channels_last 2x2x6x5 R=2 reflect"
    again = akm.tune([(2, 2, 6, 5)], order=0, seconds=0.2, dtype=torch.float16, max_radius=2,
                     border="reflect", memory_format=torch.channels_last, verbose=False,
                     again=True)  # fmt: skip
    assert [x.problem for x in again] == [found.problem]


def test_tune_refuses_in_a_backward() -> None:
    x = torch.zeros(1, requires_grad=True)
    y = x * 1
    y.register_hook(lambda _: akm.tune([(1, 1, 4, 4)]) and None)
    with pytest.raises(RuntimeError, match="before a capture, trace or backward"):
        y.backward()


# AKM_AUTOTUNE=1


def logged(log: list[str]) -> Callable[..., tuner.Tuned]:
    """``tune_problem``, which also writes down the problem's key."""
    right = tuner.tune_problem

    def tune_problem(problem: Problem, *args: Any, **options: Any) -> tuner.Tuned:
        log.append(problem.key)
        return right(problem, *args, **options)

    return tune_problem


@pytest.fixture
def autotuned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of what is tuned, in order."""
    log: list[str] = []
    monkeypatch.setattr(tuner, "tune_problem", logged(log))
    monkeypatch.setattr(choice, "observers", [session.autotune])
    monkeypatch.setattr(session, "_waiting", {})
    monkeypatch.setattr(session, "_failed", set())
    monkeypatch.setenv("AKM_AUTOTUNE_SECONDS", "0.01")
    return log


def test_autotune_waits_for_the_end_of_a_backward(autotuned: list[str]) -> None:
    z, r = torch.randn(1, 2, 7, 6), torch.ones(2, requires_grad=True)
    y = akm.gaussian_blur(z, r, max_radius=2)
    assert [key.split()[0] for key in autotuned] == ["blur"]
    y.sum().backward()
    assert len(autotuned) == 1
    akm.gaussian_blur(z, r, max_radius=2)
    assert [key.split()[0] for key in autotuned] == ["blur", "tap_grads"]
    akm.gaussian_blur(z, r, max_radius=2).sum().backward()
    akm.gaussian_blur(z, r, max_radius=2)
    assert len(autotuned) == 2  # the cache holds them


def test_autotune_waits_for_the_end_of_a_trace(autotuned: list[str]) -> None:
    z, r = torch.randn(1, 2, 7, 6), torch.ones(2)
    call = torch.compile(lambda z, r: akm.gaussian_blur(z, r, max_radius=2), backend="aot_eager")
    y = call(z, r)
    torch.testing.assert_close(y, akm.gaussian_blur(z, r, max_radius=2, backend="torch"))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        akm.gaussian_blur(z, r, max_radius=2)
    assert len(autotuned) == 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), MemoryError(), AssertionError("no"), OSError(28, "")],
    ids=repr,
)  # fmt: skip
def test_what_fails_is_tried_once(
    error: Exception, autotuned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(problem: Problem, *_: Any, **__: Any) -> tuner.Tuned:
        autotuned.append(problem.key)
        raise error

    works, r = tuner.tune_problem, torch.ones(2)
    monkeypatch.setattr(tuner, "tune_problem", fails)
    with pytest.warns(UserWarning, match="keeps the rule's plan"):
        akm.gaussian_blur(torch.randn(3, 2, 7, 6), r, max_radius=2)
    for batch in (3, 4, 3):  # of one key; a second warning would be an error
        z = torch.randn(batch, 2, 7, 6)
        y = akm.gaussian_blur(z, r, max_radius=2)
    torch.testing.assert_close(y, akm.gaussian_blur(z, r, max_radius=2, backend="torch"))
    assert len(autotuned) == 1
    monkeypatch.setattr(tuner, "tune_problem", works)
    akm.gaussian_blur(torch.randn(1, 2, 7, 6), r, max_radius=2)  # another problem is tried
    assert len(autotuned) == 2


def test_a_damaged_entry_is_tuned_anew(autotuned: list[str]) -> None:
    key = Problem("blur", 1, 2, 7, 6, 2, "symmetric", 4, False).key
    store.add(DEVICE, {key: {"plan": None}})
    with pytest.warns(UserWarning, match="passed over"):
        akm.gaussian_blur(torch.randn(1, 2, 7, 6), torch.ones(2), max_radius=2)
    assert autotuned == [key]
    choice.forget()
    akm.gaussian_blur(torch.randn(1, 2, 7, 6), torch.ones(2), max_radius=2)
    assert autotuned == [key]


def _blur(channels: int) -> str:
    """Blur maps of so many channels; returns where the plan came from."""
    akm.gaussian_blur(torch.randn(1, channels, 6, 5), torch.tensor(1.0), max_radius=2)
    problem = Problem("blur", 1, channels, 6, 5, 2, "symmetric", 4, False)
    return choice.choose(problem, DEVICE).origin


def _each_its_own(rank: int, folder: str, log: str) -> None:
    """The first process meets maps of 1 and 2 channels, the other those of 3 and then 2."""

    def sleep(seconds: float) -> None:
        raise AssertionError("waits")

    tuner.time.sleep = sleep
    mine: list[str] = []
    tuner.tune_problem = logged(mine)
    choice.observers.append(session.autotune)
    origins = [_blur(3), _blur(2)] if rank else []
    torch.distributed.barrier()
    if rank == 0:
        origins = [_blur(1), _blur(2)]
    torch.distributed.barrier()
    origins.append(_blur(2))
    torch.save((len(mine), origins), f"{log}.{rank}")


def test_no_process_waits_for_what_the_first_may_never_meet(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKM_AUTOTUNE_SECONDS", "0.01")
    in_two_processes(_each_its_own, str(cache), str(tmp_path / "log"))
    first, second = (torch.load(tmp_path / f"log.{i}") for i in (0, 1))
    assert first == (2, ["cache", "cache", "cache"])
    assert second == (0, ["rule", "rule", "cache"])


def _both(rank: int, folder: str, log: str) -> None:
    mine: list[str] = []
    tuner.tune_problem = logged(mine)
    akm.tune([(1, 2, 6, 5), (1, 1, 6, 5)], seconds=0.1, max_radius=2, order=0, verbose=False)
    chosen = [choice.choose(Problem("blur", 1, c, 6, 5, 2, "symmetric", 4, False), DEVICE)
              for c in (1, 2)]  # fmt: skip
    torch.save((mine, [x.origin for x in chosen]), f"{log}.{rank}")


def test_one_process_tunes_and_the_other_waits_for_its_file(tmp_path: Path, cache: Path) -> None:
    in_two_processes(_both, str(cache), str(tmp_path / "log"))
    (first, origins), (second, others) = (torch.load(tmp_path / f"log.{i}") for i in (0, 1))
    assert len(first) == 2 and second == []
    assert origins == others == ["cache", "cache"]


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="1 problems were not tuned by the first process"):
        tuner._wait(["none"], DEVICE, 0.2)


def test_waiting_begins_anew_with_each_sign_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now, keys = [0], [f"key {i}" for i in range(5)]

    def sleep(seconds: float) -> None:
        now[0] += 4
        if now[0] % 8 == 0 and now[0] < 40:  # the last one never comes
            store.add(DEVICE, {keys[now[0] // 8 - 1]: {"plan": []}})

    monkeypatch.setattr(tuner.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(tuner.time, "sleep", sleep)
    with pytest.warns(UserWarning, match="1 problems were not tuned by the first process in 10 s"):
        tuner._wait(keys, DEVICE, 10)
    assert now[0] == 44  # 32 and more than 10


def test_the_table_of_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--maps", "2x2x12x9", "--radius", "2", "--layout", "nchw", "--dtype", "float32",
                 "--op", "blur", "--seconds", "1"]  # fmt: skip
    with pytest.raises(SystemExit, match="interpreted, it measures nothing"):
        tune_device.main(arguments)
    folders = ["--tables", str(tmp_path / "tables"), "--out", str(tmp_path / "results")]
    tune_device.main([*arguments, *folders])
    problem = Problem("blur", 2, 2, 12, 9, 2, "symmetric", 4, False)
    (result,) = (tmp_path / "results").glob("*/tune-device.json")
    (row,) = json.loads(result.read_text())["rows"]
    assert row["key"] == problem.key and row["rule_us"] >= row["tuned_us"] > 0
    entries = store.shipped(DEVICE, tmp_path / "tables")
    assert (problem.key in entries) == (row["rule_us"] > 1.03 * row["tuned_us"])
    monkeypatch.setattr(tune_device, "KEEP", 100.0)
    tune_device.main([*arguments, *folders])
    assert store.shipped(DEVICE, tmp_path / "tables") == {}
    assert tune_device.gap([{"rule_us": 2, "tuned_us": 1}, {"rule_us": 8, "tuned_us": 1}]) == 3


# Traffic.


class Traffic:
    """What the kernels ask of some tensors: elements, each address as often as it is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from triton.runtime import interpreter

        self.loads: list[Any] = []
        self.stores: list[Any] = []
        builder = interpreter.InterpreterBuilder
        load, write = builder.create_masked_load, builder.create_masked_store

        def create_masked_load(this: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
            self.loads.append(ptrs.data[mask.data.astype(bool)])
            return load(this, ptrs, mask, *rest)

        def create_masked_store(this: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
            self.stores.append(ptrs.data[mask.data.astype(bool)])
            return write(this, ptrs, value, mask, *rest)

        monkeypatch.setattr(builder, "create_masked_load", create_masked_load)
        monkeypatch.setattr(builder, "create_masked_store", create_masked_store)

    def of(self, log: str, *maps: Tensor) -> tuple[int, int]:
        """(elements asked for, different ones) within the maps."""
        import numpy as np

        found = np.concatenate(getattr(self, log))
        total = unique = 0
        for x in maps:
            start = x.data_ptr()
            inside = found[(found >= start) & (found < start + x.numel() * x.element_size())]
            total, unique = total + len(inside), unique + len(np.unique(inside))
        return total, unique


SHAPES = [(7, 5), (14, 14), (28, 28), (64, 33), (40, 150), (90, 70), (130, 20)]


@pytest.mark.sampled(("shape", "op"), ("op", "border"))
@pytest.mark.parametrize("border", ["symmetric", "reflect", "circular", "zeros"])
@pytest.mark.parametrize("op", ["blur", "blur_adjoint", "blur_backward"])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_traffic(
    shape: tuple[int, int], itemsize: int, op: str, border: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each element asked for once where a tile holds a whole plane, and as often as is counted
    where there are more, or where float32 is loaded again; of DRAM, which sees an address once,
    always once."""
    problem = Problem(op, 1, 2, *shape, 5, border, itemsize, False)
    if not all(isinstance(x.config, Config) for x in rule(problem, DEVICE)):
        pytest.skip("counted by the tests of windows that slide and of single axes")
    plan, work = rule(problem, DEVICE), Workload(problem, CPU)
    counted = Traffic(monkeypatch)
    results = work.run(plan)
    maps = [work.z[0]] if work.g is work.z else [work.z[0], work.g[0]]
    asked, different = counted.of("loads", *maps)
    written, places = counted.of("stores", results[0])
    plane = 2 * shape[0] * shape[1]
    assert different == len(maps) * plane
    assert written == places == plane
    whole = all(x.config.strips == 1 and not x.config.halo_h for x in plan)
    if whole and len(plan) == 1 and (itemsize == 2 or op != "blur_backward"):
        assert asked == len(maps) * plane
    assert (asked + written) * itemsize == traffic(plan, problem).requested_bytes


@pytest.mark.sampled
@pytest.mark.parametrize("border", ["circular", "zeros"])
@pytest.mark.parametrize("outputs", ["dz", "dz da db", "dz da, db"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_traffic_of_windows_that_slide(
    channels_last: bool, outputs: str, border: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the lanes of a program read twice of a row counts once. They read a row in several loads
    one after the other; of the next row each address is another one."""
    op = "blur" if outputs == "dz" else "blur_backward"
    problem = Problem(op, 1, 2, 10, 20, 3, border, 4, channels_last)
    launches = [dict.fromkeys(names.split(), True) for names in outputs.split(", ")]
    plan = tuple(Launch(Sliding(2, 2, 6, 1), **names) for names in launches)
    asked = asked_by_rows(plan, problem, monkeypatch)
    moved = traffic(plan, problem)
    assert (asked + 400) * 4 == moved.requested_bytes
    assert moved.dram_bytes == (2 if op == "blur" else 3 * len(plan) - (len(plan) > 1)) * 1600


def asked_by_rows(plan: Plan, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> int:
    """Elements that are loaded: of a row, one after the other, each counts once."""
    work, counted, scratch = Workload(problem, CPU), Traffic(monkeypatch), list[Tensor]()

    def kept(*args: Any) -> Tensor:
        scratch.append(empty_like(*args))
        return scratch[-1]

    for module in (triton_backend, sequences):
        monkeypatch.setattr(module, "empty_like", kept)
    work.run(plan)
    length = problem.w * (problem.c if problem.channels_last else 1) * 4  # bytes of a row
    asked, last, seen = 0, None, set[int]()
    maps = {x.data_ptr(): x for x in (work.z[0], work.g[0], *scratch)}.values()
    for pointers in counted.loads:
        for x in maps:
            inside = pointers - x.data_ptr()
            inside = inside[(inside >= 0) & (inside < x.nbytes)]
            if len(inside):
                row = id(x), frozenset((inside // length).tolist())
                seen = seen if row == last else set[int]()
                asked += len(set(inside.tolist()) - seen)
                seen |= set(inside.tolist())
                last = row
    return asked


@pytest.mark.sampled
@pytest.mark.parametrize("border", ["circular", "zeros"])
@pytest.mark.parametrize("op", ["blur", "blur_backward", "tap_grads"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_traffic_of_single_axes(
    channels_last: bool, op: str, border: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of DRAM each map of each launch once: 2 and 2; 2, 3 and 3 (2 where nothing is written)."""
    problem = Problem(op, 1, 2, 10, 20, 3, border, 4, channels_last)
    plan = []
    for step in steps(problem):
        config = Axis(step.axis, 2, 4, 5, 1, 2, num_warps=1)
        if not config.down(problem):
            config = replace(config, groups=1, columns=8)
        plan.append(Launch(config, **dict.fromkeys(step.outputs, True)))
    asked = asked_by_rows(tuple(plan), problem, monkeypatch)
    moved = traffic(tuple(plan), problem)
    maps, written = {"blur": (4, 2), "blur_backward": (8, 3), "tap_grads": (7, 2)}[op]
    assert moved.dram_bytes == maps * 1600
    assert moved.requested_bytes == (asked + written * 400) * 4


@pytest.mark.parametrize(
    ("shape", "passes"), [((2, 3, 40), 1), ((1, 2, 4, 12, 11), 2)], ids=["signal", "volume"]
)
def test_traffic_of_signals_and_volumes(
    shape: tuple[int, ...], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal is read once and written once, a volume twice; backward two are read for each."""
    made = [torch.randn(shape).requires_grad_()]

    def kept(*args: Any) -> Tensor:
        made.append(empty_like(*args))
        return made[-1]

    for module in (triton_backend, sequences):
        monkeypatch.setattr(module, "empty_like", kept)
    r = torch.ones(shape[1], requires_grad=True)
    options: Any = dict(max_radius=3, axes=tuple(range(2 - len(shape), 0)), backend="triton")
    for maps_read in (1, 2):
        counted = Traffic(monkeypatch)
        if maps_read == 1:
            y = akm.gaussian_blur(made[0], r, **options)
        else:
            made.append(torch.randn(shape))
            torch.autograd.grad(y, (made[0], r), made[-1])
        maps = list({x.data_ptr(): x for x in made}.values())
        assert counted.of("loads", *maps)[1] == maps_read * passes * y.numel()
        assert counted.of("stores", *maps) == (passes * y.numel(),) * 2


@pytest.mark.parametrize(("shape", "stride"), [((28, 27), (2, 2)), ((40, 70), (3, 1))], ids=str)
def test_traffic_of_a_stride(
    shape: tuple[int, int], stride: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not keep is not written."""
    problem = Problem("blur", 1, 2, *shape, 5, "symmetric", 2, False, stride=stride)
    plan, work = rule(problem, DEVICE), Workload(problem, CPU)
    counted = Traffic(monkeypatch)
    (y,) = work.run(plan)
    asked, different = counted.of("loads", work.z[0])
    written, places = counted.of("stores", y)
    kept = 2 * len(range(0, shape[0], stride[0])) * len(range(0, shape[1], stride[1]))
    assert written == places == y.numel() == kept
    found = traffic(plan, problem)
    assert found.requested_bytes == 2 * (asked + written)
    assert found.dram_bytes == problem.bytes == 2 * (different + kept)
    assert work.error((y,)) < 1e-2
