"""Which launch is chosen, by what, and that nothing kept is lost."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import akm_triton as akm

pytest.importorskip("triton")

from akm_triton.cache import alone
from akm_triton.files import slug
from akm_triton.launch import choice, store
from akm_triton.launch.axis import Axis
from akm_triton.launch.device import Device
from akm_triton.launch.plan import Config, Launch, Plan, check, from_json, grids, tile, to_json
from akm_triton.launch.problem import MAX_RADIUS, OPS, Problem
from akm_triton.launch.rule import rule
from akm_triton.launch.sliding import Sliding
from akm_triton.tuning import __main__ as command
from akm_triton.tuning import clock, session, space, tuner
from akm_triton.tuning.traffic import traffic
from bench import codegen
from tests.common import BORDERS

ROOT = Path(__file__).parent.parent
H200 = Device("NVIDIA H200", 132, 90, 232_448)
DEVICES = (
    H200,
    Device("NVIDIA A100-SXM4-80GB", 108, 80, 166_912),
    Device("NVIDIA GeForce RTX 4090", 128, 89, 101_376),
    Device("NVIDIA GeForce RTX 3050", 20, 86, 101_376),
    Device("NVIDIA B200", 148, 100, 232_448),
    Device("NVIDIA GeForce RTX 5090", 170, 120, 101_376),
)

sides = st.one_of(st.integers(1, 64), st.integers(65, 2100))
problems = st.builds(
    Problem,
    op=st.sampled_from(OPS), n=st.integers(1, 4096), c=st.integers(1, 2048), h=sides, w=sides,
    radius=st.integers(1, MAX_RADIUS), border=st.sampled_from(BORDERS),
    itemsize=st.sampled_from((2, 4)), channels_last=st.booleans(), per_sample=st.booleans(),
    stride=st.just((1, 1)),
)  # fmt: skip


def assert_covers(plan: Plan, problem: Problem) -> None:
    """Every output once, every column by one strip, with all it needs within its window; every row
    in a block, with all it needs there or beside it. From the geometry alone."""
    written = [x for step in plan for x in step.outputs]
    assert sorted(x for x in written if x not in "uv") == sorted(problem.outputs)
    h, w, radius = problem.h, problem.w, problem.radius
    for step in plan:
        cfg = step.config
        if isinstance(cfg, Sliding):
            assert 1 <= radius < min(h, w) and not (problem.pair or problem.asymmetric)
            if cfg.lanes(problem).VECTOR > 1:  # beside the map are whole groups of its columns
                assert w % cfg.lanes(problem).VECTOR == 0 and problem.border != "reflect"
            continue
        if isinstance(cfg, Axis):
            assert not (problem.pair or problem.asymmetric)
            if cfg.lanes(problem).VECTOR > 1:  # of which as many as the window has are in the map
                assert cfg.axis == "columns" and w % 4 == 0 and -(-radius // 4) * 4 <= w
                assert problem.border != "reflect"
            continue
        written: list[int] = []
        for strip in range(cfg.strips):
            if cfg.out_w == cfg.block_w:
                left = strip * cfg.step_w
                own = range(
                    0 if strip == 0 else left + cfg.halo_w,
                    w if strip == cfg.strips - 1 else left + cfg.halo_w + cfg.step_w,
                )
                assert left <= own.start and own.stop <= left + cfg.block_w
            else:
                own = range(strip * cfg.out_w, min((strip + 1) * cfg.out_w, w))
                left = own.start - cfg.halo_w if w > cfg.block_w else 0
            written += own
            if cfg.strips > 1:
                low, high = own.start - radius, own.stop - 1 + radius
                if (
                    problem.border != "circular" or w <= cfg.block_w
                ):  # folded, they lie between the edge and the window
                    low, high = max(low, 0), min(high, w - 1)
                assert left <= low and high < left + cfg.block_w
        assert written == list(range(w))
        if cfg.halo_h:  # the border is folded once, where rows are loaded
            assert radius <= cfg.halo_h and radius < h
        else:
            assert h <= cfg.block_h
        assert cfg.planes * -(-problem.c // cfg.planes) >= problem.c
        assert min(cfg.block_h, cfg.block_w, cfg.out_w) >= 16


def assert_shares(plan: Plan, problem: Problem, device: Device) -> None:
    """Every tile of every image by one program of a strip, and by none twice."""
    for grid in grids(plan, problem, device):
        cfg = grid.launch.config
        groups = -(-problem.c // cfg.planes)
        assert grid.programs == grid.splits * grid.strips * groups < 2**31
        if isinstance(cfg, Sliding):
            assert grid.splits == problem.n * -(-problem.h // cfg.rows)
            assert (grid.strips - 1) * 4 * cfg.groups < problem.w <= grid.strips * 4 * cfg.groups
            continue
        if isinstance(cfg, Axis):
            turned = cfg.axis == "columns" and problem.channels_last
            h, w = (problem.w, problem.h) if turned else (problem.h, problem.w)
            strip = cfg.groups * cfg.columns * cfg.repeats
            assert grid.splits == problem.n * -(-h // cfg.rows)
            assert (grid.strips - 1) * strip < w <= grid.strips * strip
            continue
        blocks = -(-problem.h // cfg.block_h)
        split = np.arange(grid.splits)
        count = grid.share + (split < grid.extra)
        first = np.concatenate([[0], count.cumsum()])
        assert (count >= 1).all() and first[-1] == problem.n * blocks
        if problem.per_sample:  # a program has the taps of one image
            assert (first[:-1] // blocks == (first[1:] - 1) // blocks).all()
            assert grid.splits % problem.n == 0  # as the partial gradients are summed


@settings(max_examples=600, deadline=None)
@given(problems, st.sampled_from(DEVICES))
def test_the_rule_always_answers_and_always_the_same(problem: Problem, device: Device) -> None:
    plan = rule(problem, device)
    assert_covers(plan, problem)
    assert_shares(plan, problem, device)
    check(plan, problem)
    assert rule(Problem(*problem), device) == plan
    assert from_json(json.loads(json.dumps(to_json(plan))), problem) == plan


@pytest.mark.parametrize(
    ("op", "side", "radius", "itemsize", "last", "form"),
    [
        ("blur", 14, 15, 2, False, Config),
        ("blur", 7, 15, 2, False, Axis),
        ("blur_backward", 7, 3, 2, False, Axis),
        ("blur_backward", 8, 3, 2, False, Config),
        ("blur_backward", 7, 3, 2, True, Axis),
        ("blur", 7, 3, 4, False, Axis),
        ("blur_backward", 20, 7, 4, True, Axis),
        ("blur", 20, 15, 4, True, Config),
        ("blur", 24, 3, 4, False, Sliding),
        ("blur_backward", 40, 3, 4, False, Sliding),
        ("blur", 40, 7, 4, False, Axis),
        ("blur", 81, 3, 4, False, Sliding),
        ("blur_backward", 81, 5, 4, False, Axis),
        ("blur", 81, 3, 2, False, Sliding),
        ("blur", 90, 3, 2, False, Config),
    ],
)  # fmt: skip
def test_the_rule_leaves_no_tile_mostly_empty(
    op: str, side: int, radius: int, itemsize: int, last: bool, form: type
) -> None:
    """The form that the model of an H100 finds faster, often twice as fast."""
    plan = rule(Problem(op, 256, 128, side, side, radius, "symmetric", itemsize, last), H200)
    assert {type(launch.config) for launch in plan} == {form}


def test_the_rule_answers_for_maps_that_are_about_as_large_as_the_window() -> None:
    borders = ("symmetric", "reflect", "circular")
    for op, border, itemsize, last in product(OPS, borders, (2, 4), (False, True)):
        for radius, h, w in product((9, 17, 23, 31), (1, 16, 20, 31, 33), (16, 20, 33, 65, 129)):
            problem = Problem(op, 4, 3, h, w, radius, border, itemsize, last)
            check(rule(problem, H200), problem)


@settings(max_examples=40, deadline=None)
@given(problems, st.sampled_from(DEVICES))
def test_candidates_and_their_variations_are_plans(problem: Problem, device: Device) -> None:
    found, pruned = space.candidates(problem, device)
    assert len(set(found)) == len(found)
    efforts = [space.effort(plan, problem) for plan in found]
    assert efforts == sorted(efforts)
    for plan in found:
        assert_covers(plan, problem)
    tiled = [plan for plan in found if isinstance(plan[0].config, Config)]
    if tiled:
        others = list(space.variations(tiled[0], problem))
        assert others and tiled[0] not in others
        for plan in others:
            assert_covers(plan, problem)
            assert_shares(plan, problem, device)
    assert all(x.reason for x in pruned)


@pytest.mark.parametrize(
    ("n", "c", "per_sample", "splits"),
    [
        (16, 132, False, 2),  # 264 programs side by side: all of them, in one wave
        (16, 1, False, 64),  # a program for each tile
        (16, 1320, False, 1),  # five waves as they are
        (3, 1, True, 12),
        (3, 88, True, 3),  # enough programs with an image each
    ],
)
def test_tiles_are_shared_among_as_many_programs_as_are_worth_it(
    n: int, c: int, per_sample: bool, splits: int
) -> None:
    problem = Problem("blur", n, c, 128, 32, 7, "symmetric", 2, False, per_sample)
    cfg = tile(problem, (1, 32, 32), num_warps=4, programs_per_sm=2)
    assert cfg.splits(problem, H200) == splits


def test_no_share_crosses_images_that_have_their_own_taps() -> None:
    for n, c, h in product((1, 2, 3, 7, 40), (1, 5, 40), (1, 33, 100, 161, 224, 700)):
        problem = Problem("blur_backward", n, c, h, 20, 7, "zeros", 2, False, True)
        cfg = tile(problem, (1, 32, 32), num_warps=4)
        assert_shares((Launch(cfg, dz=True, da=True, db=True),), problem, H200)


def test_pruning_says_why() -> None:
    problem = Problem("blur_backward", 8, 8, 224, 40, 15, "circular", 4, False)
    reasons = {x.reason for x in space.candidates(problem, H200)[1]}
    for part in ("cannot wrap around", "too narrow for radius 15", "elements a thread",
                 "more planes than channels", "operands of ", "another candidate"):  # fmt: skip
        assert any(part in reason for reason in reasons), part


BLUR = Problem("blur", 8, 64, 112, 112, 15, "symmetric", 2, False)


def changed(**change: Any) -> Any:
    (step,) = to_json((Launch(tile(BLUR, (1, 32, 64), num_warps=8), dz=True),))
    return [{**step, **change}]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "not a plan"),
        ([3], "not a plan"),
        ([], "blur writes"),
        (changed(outputs=["da"]), "blur writes"),
        (changed(outputs=["dx"]), "not a plan"),
        (changed(planes=3), "power of two"),
        (changed(planes=1.5), "power of two"),
        (changed(block_h=8), "blocks of 16 and more"),
        (changed(block_w=32, out_w=32), "too narrow"),
        (changed(num_stages=99), "num_stages must be 1 to 8, got 99"),
        (changed(precision="tf32"), "loses the accuracy"),
        (changed(colour="red"), "not a plan"),
        (changed(segments=1), "not a plan"),
        (changed(transposed=False), "not a plan"),
        ({}, "not a plan"),
        ("dz", "not a plan"),
        ([[]], "not a plan"),
        (changed(out_w=0), "power of two, at most .*, got 0"),
        (changed(block_w=16, out_w=64), "reads 16 columns cannot compute 64"),
        (changed(registers=256), "registers must be 0 to 255, got 256"),
        (changed(registers=-1), "registers must be 0 to 255, got -1"),
        (changed(registers="96"), "registers must be 0 to 255, got '96'"),
        (changed(registers=None), "registers must be 0 to 255, got None"),
        (changed(registers=True), "registers must be 0 to 255, got True"),
        (changed(num_stages=0), "num_stages must be 1 to 8, got 0"),
        (changed(num_stages=None), "num_stages must be 1 to 8, got None"),
        (changed(num_stages=2.0), r"num_stages must be 1 to 8, got 2\.0"),
        (changed(waves=[]), "not a plan"),
        (changed(planes=1 << 20), "planes must be a power of two, at most 16, got 1048576"),
        (changed(block_w=1 << 21), "block_w must be a power of two, at most 128, got 2097152"),
        (changed(block_h=1 << 4000), "block_h must be a power of two, at most 128"),
        (changed(planes=1.0), r"power of two, at most .*, got 1\.0"),
        (changed(block_h=2.5), r"power of two, at most .*, got 2\.5"),
        (changed(planes=True), "power of two, at most .*, got True"),
        (changed(planes=float("nan")), "power of two, at most .*, got nan"),
        (changed(num_warps=-4), "power of two, at most .*, got -4"),
        (changed(num_warps=64), "num_warps must be a power of two, at most 32, got 64"),
        (changed(programs_per_sm=float("inf")), "programs_per_sm must be 1 to 32, got inf"),
        (changed(precision=["ieee"]), "loses the accuracy"),
        (changed(outputs=["dz", "dz"]), "not a plan: outputs"),
        (changed(outputs="dz"), "not a plan: outputs"),
        (changed(outputs=[["dz"]]), "not a plan: outputs"),
        (changed() * 2, "blur writes"),
        ([*changed(), *changed(outputs=[])], "a launch writes nothing"),
        ([{k: v for k, v in changed()[0].items() if k != "registers"}], "not a plan"),
    ],
)
def test_what_is_no_plan_is_refused(found: Any, message: str) -> None:
    assert from_json(changed(), BLUR)
    with pytest.raises(ValueError, match=message):
        from_json(found, BLUR)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(planes=3), "planes must be a power of two, at most 64, got 3"),
        (dict(groups=128), "groups must be a power of two, at most 64, got 128"),
        (dict(rows=0), "rows must be 1 to 112, got 0"),
        (dict(rows=113), "rows must be 1 to 112, got 113"),
        (dict(rows=2.0), r"rows must be 1 to 112, got 2\.0"),
        (dict(num_warps=True), "num_warps must be a power of two, at most 8, got True"),
        (dict(num_stages=2), "not a plan"),
    ],
)
def test_no_sliding_plan_is_refused(change: dict[str, Any], message: str) -> None:
    (step,) = to_json((Launch(Sliding(4, 32, 112), dz=True),))
    assert from_json([step], BLUR)
    with pytest.raises(ValueError, match=message):
        from_json([{**step, **change}], BLUR)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (BLUR._replace(op="blur_pair"), "a pair of taps"),
        (BLUR._replace(op="blur_adjoint", border="reflect"), "the border 'reflect'"),
        (BLUR._replace(op="blur_backward", border="replicate"), "the border 'replicate'"),
        (BLUR._replace(radius=16), "a radius of 16, of 1 to 15"),
        (BLUR._replace(w=15), "112×15 maps with a radius of 15"),
    ],
)
def test_what_no_window_slides_over_is_refused(problem: Problem, message: str) -> None:
    plan = (Launch(Sliding(4, 32, 112), **dict.fromkeys(problem.outputs, True)),)
    with pytest.raises(ValueError, match=message):
        check(plan, problem)
    proposed, _ = space.candidates(problem, H200)
    assert not any(isinstance(launch.config, Sliding) for plan in proposed for launch in plan)


def by_axes(problem: Problem, **change: Any) -> Plan:
    """Launches of one axis each, of which the first is changed."""
    plan = []
    for axis, *outputs in (("rows", "u"), ("columns", "dz")):
        down = axis == "rows" or problem.channels_last
        lanes = (1, 128, 16, 1, 8) if down else (4, 16, 16, 8, 2)
        fields = change if axis == "rows" else {}
        config = replace(Axis(axis, *lanes), **fields)
        plan.append(Launch(config, **dict.fromkeys(outputs, True)))
    return tuple(plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(axis="depth"), "axis must be one of .*, got 'depth'"),
        (dict(planes=3), "planes must be a power of two, at most 128, got 3"),
        (dict(groups=512), "groups must be a power of two, at most 256, got 512"),
        (dict(rows=113), "rows must be 1 to 112, got 113"),
        (dict(columns=4), "columns must be 1 where a lane goes down the axis, got 4"),
        (dict(together=32), "together must be a power of two, at most 16, got 32"),
        (dict(registers=256), "registers must be 0 to 255, got 256"),
        (dict(repeats=0), "repeats must be a power of two, at most 16, got 0"),
        (dict(axis="columns", columns=8), "blur needs launches of .*'rows'"),
        (dict(axis="columns", columns=1), "columns must be 4 or 8 across the axis, got 1"),
        (dict(axis="columns", columns=8, repeats=2), "repeats must be 1 across the axis, got 2"),
    ],
)
def test_no_plan_of_single_axes_is_refused(change: dict[str, Any], message: str) -> None:
    assert from_json(to_json(by_axes(BLUR)), BLUR) == by_axes(BLUR)
    with pytest.raises(ValueError, match=message):
        from_json(to_json(by_axes(BLUR, **change)), BLUR)


def test_launches_of_single_axes_are_whole() -> None:
    first, last = by_axes(BLUR)
    tiles = Launch(tile(BLUR, (1, 32, 64), num_warps=8), dz=True)
    for plan, message in (
        ((first,), "needs launches"), ((last, first), "needs launches"),
        ((first, last, last), "needs launches"), ((first, tiles), "do not go together"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            check(plan, BLUR)
    for problem, message in (
        (BLUR._replace(op="blur_adjoint", border="reflect"), "the border 'reflect'"),
        (BLUR._replace(op="blur_pair"), "a pair of taps"),
        (BLUR._replace(stride=(2, 1)), "every row where some are kept"),
    ):
        with pytest.raises(ValueError, match=message):
            check((first, last), problem)
        proposed, _ = space.candidates(problem, H200)
        assert not any(isinstance(x.config, Axis) for plan in proposed for x in plan)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from([0, 1, 2, 8, 16, 32, 64, 128, 256, "dz", "da", "db", 1 << 20]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(problems, st.data())
def test_a_damaged_plan_is_refused_or_still_a_plan(problem: Problem, data: st.DataObject) -> None:
    record = to_json(rule(problem, H200))
    for _ in range(data.draw(st.integers(1, 3))):
        step = data.draw(st.sampled_from(record))
        step[data.draw(st.sampled_from(list(step)))] = data.draw(json_values)
    try:
        plan = from_json(record, problem)
    except ValueError as error:
        assert len(str(error)) < 300
    else:
        assert_covers(plan, problem)


def writes_every_column_once(cfg: Config, w: int, radius: int, border: str) -> bool:
    """And does so from columns that were read. Index by index, as the kernels go about it; NumPy
    says what lies past a border."""
    modes: dict[str, Any] = {"replicate": "edge", "circular": "wrap"}
    wraps, count = border == "circular" and w > cfg.block_w, np.zeros(w, int)
    folded = None
    if border != "zeros":
        folded = np.pad(np.arange(w), radius, modes.get(border, border))
    for strip in range(cfg.strips):
        if cfg.out_w == cfg.block_w:
            read = computed = strip * cfg.step_w + np.arange(cfg.block_w)
            start = strip * cfg.step_w + cfg.halo_w if strip else 0
            end = w if strip == cfg.strips - 1 else (strip + 1) * cfg.step_w + cfg.halo_w
        else:
            first = 0 if w <= cfg.block_w else strip * cfg.out_w - cfg.halo_w
            read = first + np.arange(cfg.block_w)
            computed = strip * cfg.out_w + np.arange(cfg.out_w)
            start, end = strip * cfg.out_w, w
        for column in computed[(computed >= start) & (computed < min(end, w))]:
            count[column] += 1
            needed = np.arange(column - radius, column + radius + 1)
            if folded is None:
                needed = needed[(needed >= 0) & (needed < w)]
            elif not wraps:
                needed = folded[needed + radius]
            if not np.isin(needed, read).all():
                return False
    return bool((count == 1).all())


def finds_every_row(cfg: Config, h: int, radius: int, border: str) -> bool:
    """Whether each block of rows finds what its outputs need among the rows that it loads: those at
    its place, and as many as ``halo_h`` above and below. NumPy says which lie past a border."""
    if cfg.halo_h == 0:  # the border is in the operand
        return h <= cfg.block_h
    if cfg.halo_h < 0:
        return False
    modes: dict[str, Any] = {"replicate": "edge", "circular": "wrap"}
    wanted = np.full(h + 2 * radius, -1)
    wanted[radius : radius + h] = np.arange(h)
    if border != "zeros":
        wanted = np.pad(np.arange(h), radius, modes.get(border, border))
    for row in range(0, h, cfg.block_h):
        last = row + cfg.block_h
        rows = np.arange(row - cfg.halo_h, last + cfg.halo_h)
        once = {
            "circular": np.where(rows < 0, rows + h, np.where(rows >= h, rows - h, rows)),
            "symmetric": np.where(rows < 0, -1 - rows, np.minimum(rows, 2 * h - 1 - rows)),
            "reflect": np.minimum(abs(rows), 2 * h - 2 - abs(rows)),
        }.get(border, np.clip(rows, 0, h - 1))
        inside = (rows >= 0) & (rows < h)
        if border == "zeros":
            once[~inside] = -1
        elif h % cfg.block_h == 0:  # a full block folds nothing at its own place
            once[~inside & (rows >= row) & (rows < last)] = -1
        place = np.arange(row - radius, min(last, h) + radius)
        if place[0] < rows[0] or place[-1] > rows[-1]:
            return False
        if (once[place - rows[0]] != wanted[place + radius]).any():
            return False
    return True


@st.composite
def nearly_right(draw: st.DrawFn) -> tuple[Config, Problem]:
    """Tiles of a small map, of which a number may be off."""
    problem = Problem(
        "blur", 1, 1, draw(st.integers(1, 150)), draw(st.integers(1, 150)),
        draw(st.integers(1, 31)), draw(st.sampled_from(BORDERS)), 2, False,
    )  # fmt: skip
    powers = st.sampled_from((16, 32, 64, 128))
    block_h, block_w, out_w = draw(powers), draw(powers), draw(st.none() | powers)
    try:
        cfg = tile(problem, (1, block_h, block_w), num_warps=4, out_w=out_w)
    except ValueError:
        strips = -(-problem.w // 16)
        cfg = Config(1, block_h, 16, block_w, out_w or block_w, strips, 16, 16, 4)
    numbers = dict.fromkeys(("strips", "step_w", "halo_w"), st.integers(-1, 40))
    numbers["halo_h"] = st.sampled_from((-16, 0, 1, 8, 16, 32, 64))
    name = draw(st.sampled_from(["", "block_h", "block_w", "out_w", *numbers]))
    return replace(cfg, **{name: draw(numbers.get(name, powers))} if name else {}), problem


@settings(max_examples=500, deadline=None)
@given(nearly_right())
def test_what_passes_the_check_writes_everything_once(case: tuple[Config, Problem]) -> None:
    cfg, problem = case
    right = writes_every_column_once(cfg, problem.w, problem.radius, problem.border)
    right = right and finds_every_row(cfg, problem.h, problem.radius, problem.border)
    try:
        check((Launch(cfg, dz=True),), problem)
    except ValueError:
        passes = False
    else:
        passes = True
    assert right or not passes


@pytest.mark.parametrize(
    ("cfg", "w", "radius", "border"),
    [
        pytest.param(Config(1, 32, 16, 16, 16, 1, 16, 0, 4), 40, 3, "zeros", id="too narrow"),
        pytest.param(Config(1, 32, 16, 16, 64, 1, 16, 0, 4), 40, 3, "zeros", id="computes unread"),
        pytest.param(Config(1, 32, 16, 64, 64, 3, 48, 8, 4), 150, 8, "circular", id="no wrap left"),
        pytest.param(Config(1, 32, 32, 64, 16, 5, 16, 16, 4), 80, 20, "circular", id="short wrap"),
        pytest.param(Config(1, 32, 16, 64, 64, 3, -1, 8, 4), 40, 8, "zeros", id="backwards"),
        pytest.param(Config(1, 32, 16, 64, 64, 3, 56, 8, 4), 150, 8, "reflect", id="no halo right"),
        pytest.param(Config(1, 32, 16, 64, 32, 2, 32, 8, 4), 100, 8, "zeros", id="a strip too few"),
        pytest.param(Config(1, 32, 16, 64, 32, 4, 32, 8, 4), 90, 8, "zeros", id="a strip too many"),
    ],
)
def test_strips_that_miss_something_are_refused(
    cfg: Config, w: int, radius: int, border: str
) -> None:
    problem = BLUR._replace(w=w, radius=radius, border=border)
    with pytest.raises(ValueError, match=r"strip|columns"):
        check((Launch(cfg, dz=True),), problem)


@pytest.mark.parametrize(
    ("block_h", "halo_h", "h", "radius"),
    [
        pytest.param(32, 0, 33, 3, id="rows beside, and no halo"),
        pytest.param(32, 16, 32, 3, id="none beside"),
        pytest.param(32, 16, 40, 17, id="too long for the halo"),
        pytest.param(16, 32, 20, 20, id="folded twice"),
        pytest.param(32, 8, 40, 3, id="a halo no product takes"),
        pytest.param(32, -16, 40, 3, id="negative"),
    ],
)
def test_blocks_that_miss_a_row_are_refused(block_h: int, halo_h: int, h: int, radius: int) -> None:
    problem = BLUR._replace(h=h, w=32, radius=radius)
    cfg = Config(1, block_h, halo_h, 32, 32, 1, 32, 0, 4)
    with pytest.raises(ValueError, match="rows"):
        check((Launch(cfg, dz=True),), problem)


def test_the_tiles_that_are_made_pass_the_check() -> None:
    for w, radius, border, block_w, out_w in product(
        (1, 16, 40, 100, 129), (1, 15, 31), BORDERS, (16, 64, 128), (None, 16, 32, 64)
    ):
        problem = BLUR._replace(w=w, radius=radius, border=border)
        try:
            cfg = tile(problem, (1, 32, block_w), num_warps=4, out_w=out_w)
        except ValueError:
            continue
        assert writes_every_column_once(cfg, w, radius, border)
        check((Launch(cfg, dz=True),), problem)
    for h, radius, border, block_h in product(
        (1, 16, 17, 32, 33, 100, 128), (1, 15, 16, 17, 31), BORDERS, (16, 32, 128)
    ):
        problem = BLUR._replace(h=h, w=20, radius=radius, border=border)
        try:
            cfg = tile(problem, (1, block_h, 32), num_warps=4)
        except ValueError as error:
            assert h <= radius and "twice" in str(error)
            continue
        assert finds_every_row(cfg, h, radius, border)
        check((Launch(cfg, dz=True),), problem)


def test_the_key_tells_apart_what_runs_another_kernel() -> None:
    base = Problem("blur", 8, 64, 56, 56, 15, "symmetric", 2, False)
    others = [
        base._replace(**change)
        for change in (
            {"op": "blur_pair"}, {"n": 9}, {"c": 65}, {"h": 57}, {"w": 57}, {"radius": 14},
            {"border": "zeros"}, {"itemsize": 4}, {"channels_last": True}, {"per_sample": True},
            {"stride": (2, 2)}, {"stride": (1, 2)},
        )
    ]  # fmt: skip
    assert len({base.key, *(x.key for x in others)}) == 13
    assert base._replace(n=5).key == base.key


def test_machine_code_tells_what_is_not_worth_a_run() -> None:
    def flaw(device: Device = H200, **change: int) -> str | None:
        recorded = codegen.launches("float32", "nchw", (32, 64), 15, 90)
        launch = next(x for x in recorded if x.name == "blur_kernel")
        launch.arguments["TILE"] = launch.arguments["TILE"]._replace(**change)
        return tuner._flaw([launch], device)

    assert flaw() is None
    spilling = flaw(BLOCK_H=64, HALO_H=0, BLOCK_W=64, OUT_W=64)
    assert spilling and spilling.startswith("blur_kernel spills: ")
    small = flaw(H200._replace(shared_bytes=1000))
    assert small and "bytes of shared memory" in small
    broken = flaw(BLOCK_W=63)
    assert broken and broken.startswith("does not compile: ")


# What puts candidates in order.


@settings(max_examples=100, deadline=None)
@given(problems, st.sampled_from(DEVICES))
def test_traffic_is_each_map_once_and_more_with_halos(problem: Problem, device: Device) -> None:
    found = traffic(rule(problem, device), problem)
    maps = 3 if problem.op == "blur_backward" else 2
    least = maps * problem.n * problem.c * problem.h * problem.w * problem.itemsize
    assert found.dram_bytes >= least
    assert found.requested_bytes >= least


@pytest.mark.parametrize(
    ("h", "border", "rows"),
    [
        (32, "symmetric", 32),  # no row beside the only block
        (64, "symmetric", 32 + 5 + 16 + 32 + 16 + 5),  # radius 5 is folded back at both ends
        (64, "zeros", 32 + 16 + 32 + 16),
        (40, "symmetric", 32 + 5 + 13 + 13 + 16),  # 5 of the last rows are folded into its block
        (40, "zeros", 32 + 8 + 8 + 16),
    ],
)
def test_rows_are_asked_for_with_those_beside_them(h: int, border: str, rows: int) -> None:
    """In blocks of 32 and halos of 16; and from DRAM once."""
    w = 20
    for op, itemsize in product(("blur", "blur_backward"), (2, 4)):
        problem = Problem(op, 3, 2, h, w, 5, border, itemsize, False)
        gradient = op == "blur_backward"
        cfg = tile(problem, (1, 32, 32), num_warps=4)
        found = traffic((Launch(cfg, dz=True, da=gradient, db=gradient),), problem)
        again = 2 * h if gradient and itemsize == 4 else 0
        read, written = (1 + gradient) * rows + again, h
        assert found.requested_bytes == 3 * 2 * w * itemsize * (read + written)
        assert found.dram_bytes == problem.bytes


def test_effort_is_less_for_whole_tiles_few_warps_and_one_launch() -> None:
    problem = Problem("blur", 8, 64, 32, 32, 7, "symmetric", 2, False)

    def effort(shape: tuple[int, int, int], num_warps: int) -> float:
        plan = (Launch(tile(problem, shape, num_warps=num_warps), dz=True),)
        return space.effort(plan, problem)

    assert effort((1, 32, 32), 4) < effort((1, 32, 32), 8) < effort((1, 16, 32), 8)
    assert effort((4, 32, 32), 4) < effort((1, 32, 32), 4)  # more elements for each thread
    backward = problem._replace(op="blur_backward")
    cfg = tile(backward, (1, 32, 32), num_warps=4)
    one = (Launch(cfg, dz=True, da=True, db=True),)
    two = (Launch(cfg, dz=True, db=True), Launch(cfg, da=True))
    assert space.effort(one, backward) < space.effort(two, backward)


# What is kept.


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AKM_CACHE_DIR", str(tmp_path / "cache"))
    choice.forget()
    yield tmp_path / "cache"
    choice.forget()


def entry(problem: Problem, cfg: Config) -> dict[str, Any]:
    plan = to_json((Launch(cfg, dz=True),))
    return {"plan": plan, "seconds": 1e-5, "rule_seconds": 2e-5, "clock": "events"}


OTHER = tile(BLUR, (1, 16, 64), num_warps=2)


def chosen() -> tuple[Plan, str]:
    choice_made = choice.choose(BLUR, H200)
    return choice_made.plan, choice_made.origin


def test_cache_then_table_then_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.shipped, "__defaults__", (tmp_path,))
    assert chosen() == (rule(BLUR, H200), "rule")
    env = store.environment(H200)
    shipped = tile(BLUR, (1, 32, 64), num_warps=2)
    store.write(tmp_path / "nvidia-h200.json", env, {BLUR.key: entry(BLUR, shipped)})
    choice.forget()
    assert chosen() == ((Launch(shipped, dz=True),), "shipped")
    choice.commit(H200, {BLUR.key: entry(BLUR, OTHER)})
    assert chosen() == ((Launch(OTHER, dz=True),), "cache")
    choice.forget()  # as in the next process
    assert choice.choose(BLUR, H200).origin == "cache"
    assert choice.choose(BLUR, H200._replace(name="NVIDIA H100 PCIe")).origin == "rule"
    # a table of other kernels says nothing of these
    store.write(tmp_path / "nvidia-h200.json", {**env, "kernels": "0"}, {BLUR.key: {}})
    assert store.shipped(H200, tmp_path) == {}


def test_an_entry_that_is_no_plan_is_passed_over() -> None:
    choice.commit(H200, {BLUR.key: {"plan": changed(planes=3)}})
    with pytest.warns(UserWarning, match="planes must be a power of two, at most 16, got 3"):
        assert choice.choose(BLUR, H200).origin == "rule"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 0}', "\x00\xff", '{"format": 1, "environment": {}, "entries": {}}',
     '{"format": 1, "entries": 3}'],
)  # fmt: skip
def test_a_file_that_is_no_cache_is_set_aside(text: str, cache: Path) -> None:
    path = store.path_of(H200)
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("latin-1"))
    with pytest.warns(UserWarning, match="set aside"):
        assert choice.choose(BLUR, H200).origin == "rule"
    (aside,) = cache.glob("*unreadable*")
    assert aside.read_bytes() == text.encode("latin-1")
    choice.commit(H200, {BLUR.key: entry(BLUR, OTHER)})
    choice.forget()
    assert choice.choose(BLUR, H200).origin == "cache"


def corrupt(path: Path, **entries: str) -> None:
    """Put the text of some entries, which is JSON perhaps, into the file of a cache."""
    whole = path.read_text()
    (before, after) = whole.split(' "entries": {\n')
    more = "".join(f"  {json.dumps(key)}: {text},\n" for key, text in entries.items())
    path.write_text(f'{before} "entries": {{\n{more}{after}')


@pytest.mark.parametrize(
    "text",
    ["null", "3", "[]", '"plan"', "{}", '{"plan": null}', '{"plan": [[]]}', '{"plan": NaN}',
     '{"plan": {"outputs": ["dz"]}}', '{"plan": ' + "[" * 200 + "]" * 200 + "}",
     '{"plan": [], "seconds": {"a": {"b": {"c": {"d": {"e": 1}}}}}}',
     '{"plan": [{"outputs": ["dz"]}]}'],
)  # fmt: skip
def test_a_damaged_entry_is_passed_over_alone(text: str) -> None:
    other = BLUR._replace(h=20)
    store.add(H200, {other.key: entry(other, OTHER)})
    corrupt(store.path_of(H200), **{BLUR.key: text})
    with pytest.warns(UserWarning, match="passed over"):
        assert choice.choose(BLUR, H200).origin == "rule"
    assert choice.choose(other, H200).origin == "cache"
    choice.commit(H200, {BLUR.key: entry(BLUR, OTHER)})  # and may be tuned again
    choice.forget()
    assert choice.choose(BLUR, H200).origin == choice.choose(other, H200).origin == "cache"


def test_an_entry_nested_deeper_than_any_is_not_written_again() -> None:
    """The writer might not manage what the parser just did."""
    store.add(H200, {BLUR.key: entry(BLUR, OTHER)})
    corrupt(store.path_of(H200), deep='{"plan": ' + "[" * 200 + "]" * 200 + "}")
    with pytest.warns(UserWarning, match=r"1 damaged entries of .*'deep'"):
        assert store.add(H200, {"another": {}})
    assert set(store.read(H200)) == {BLUR.key, "another"}


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": ' * 100_000, "9" * 5000, '{"format": 2, "environment": 3}',
             '{"format": 2, "environment": {}, "entries": []}']
)  # fmt: skip
def test_what_exhausts_the_parser_is_set_aside(text: str, cache: Path) -> None:
    path = store.path_of(H200)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.warns(UserWarning, match="set aside"):
        assert chosen() == (rule(BLUR, H200), "rule")
    assert [x.read_text() for x in cache.glob("*unreadable*")] == [text]


@pytest.mark.parametrize("seconds", ["null", '"fast"', "[]", "NaN", "1"])
def test_times_that_are_none_are_not_shown(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = json.dumps(to_json((Launch(OTHER, dz=True),)))
    store.add(H200, {})
    text = f'{{"plan": {plan}, "seconds": {seconds}}}'
    store.path_of(H200).write_text(
        store.path_of(H200).read_text().replace("{\n\n }", f'{{"{BLUR.key}": {text}}}')
    )
    command.main(["show", "8", "64", "112", "112", "--dtype", "float16", "--op", "blur"])
    out = capsys.readouterr().out
    assert "from the cache" in out and "measured" not in out


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "\xff", '{"format": 2}', "[" * 100_000, '{"format": 2, "entries": {}}']
)
def test_damaged_shipped_plans_are_passed_over(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.shipped, "__defaults__", (tmp_path,))
    path = tmp_path / "nvidia-h200.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.warns(UserWarning, match=r"shipped plans in .* are passed over"):
        assert chosen()[1] == "rule"
    assert path.read_bytes() == text.encode("latin-1") and len(os.listdir(tmp_path)) == 1
    env = store.environment(H200)
    store.write(path, env, {BLUR.key: {"plan": changed(out_w=0)}})
    choice.forget()
    with pytest.warns(UserWarning, match="the shipped plan of .* power of two, at most 128, got 0"):
        assert chosen()[1] == "rule"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_could_not_be_read_stays(
    number: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(H200, {BLUR.key: entry(BLUR, OTHER)})
    path, right = store.path_of(H200), Path.read_text
    whole = path.read_bytes()

    def read_text(this: Path, *args: Any, **more: Any) -> str:
        if this == path:
            raise OSError(number, os.strerror(number), str(path))
        return right(this, *args, **more)

    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(Path, "read_text", read_text)
        for h in range(20, 30):  # one warning for all of them
            assert choice.choose(BLUR._replace(h=h), H200).origin == "rule"
            choice.reload(H200)
        assert [os.strerror(number) in str(x.message) for x in caught] == [True]
        # nor is it replaced by a file without what it held
        choice.commit(H200, {"another": {}})
    assert path.read_bytes() == whole
    assert {x.name for x in cache.iterdir()} == {path.name, path.with_suffix(".lock").name}
    choice.forget()
    assert choice.choose(BLUR, H200).origin == "cache"


def origin_and_warnings(*heights: int) -> tuple[str, list[str]]:
    """As in a new process that plans for some maps."""
    choice.forget()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (origin,) = {choice.choose(BLUR._replace(h=h), H200).origin for h in heights or (112,)}
    return origin, [str(x.message) for x in caught]


def test_without_a_file_left_to_open_the_rule_plans() -> None:
    store.environment(H200)

    def starved() -> tuple[str, list[str]]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        held = []
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            return origin_and_warnings()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in held:
                os.close(descriptor)

    assert starved() == ("rule", [])  # there was nothing to be read
    store.add(H200, {BLUR.key: entry(BLUR, OTHER)})
    origin, (message,) = starved()
    assert origin == "rule" and "Too many open files" in message
    assert origin_and_warnings() == ("cache", [])


def test_a_good_file_written_meanwhile_is_not_set_aside(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(H200, {BLUR.key: entry(BLUR, OTHER)})
    path, right = store.path_of(H200), Path.read_text
    good = path.read_text()
    path.write_text("{")

    def read_text(this: Path, *args: Any, **more: Any) -> str:
        found = right(this, *args, **more)
        if this == path:
            path.write_text(good)
        return found

    monkeypatch.setattr(Path, "read_text", read_text)
    assert choice.choose(BLUR, H200).origin == "cache"
    assert not list(cache.glob("*unreadable*"))


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the user of a container, whom no one has written down."""

    def getpwuid(number: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    for name in ("AKM_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_home_there_is_one_warning_and_the_rules_plan(
    homeless: None, capsys: pytest.CaptureFixture[str]
) -> None:
    origin, (message,) = origin_and_warnings(*range(20, 25))
    assert origin == "rule" and "no tuning cache (Could not determine home" in message
    choice.commit(H200, {BLUR.key: entry(BLUR, OTHER)})  # a second warning would be an error
    assert choice.choose(BLUR, H200).origin == "cache"
    command.main(["show", "8", "64", "112", "112", "--op", "blur"])
    assert "no cache: Could not determine home directory" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["clear"])
    assert "Could not determine home directory" in capsys.readouterr().err


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only the superuser becomes another user")
    store.environment(H200)
    monkeypatch.delenv("AKM_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    os.setegid(54321)
    os.seteuid(54321)
    yield
    os.seteuid(0)
    os.setegid(0)


def test_a_home_that_may_not_be_read_warns_where_something_was_to_be(
    nobody: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.seteuid(0)
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    path = store.path_of(H200)
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    path.chmod(0o600)
    ours = [folder for folder in tmp_path.parents if "pytest" in str(folder)]
    for folder in (*ours, tmp_path, home, home / ".cache", path.parent):
        folder.chmod(0o711)
    home.chmod(0o700)
    os.seteuid(54321)
    assert origin_and_warnings() == ("rule", [])  # nothing can be seen in it
    with pytest.warns(UserWarning, match="cannot be written .*Permission denied.*AKM_CACHE_DIR"):
        choice.commit(H200, {BLUR.key: entry(BLUR, OTHER)})
    assert choice.choose(BLUR, H200).origin == "cache"
    os.seteuid(0)
    home.chmod(0o711)
    os.seteuid(54321)
    origin, (message,) = origin_and_warnings(*range(20, 25))
    assert origin == "rule" and re.search("cannot be read .*Permission denied", message)
    os.seteuid(0)
    assert path.read_text() == "{}" and len(os.listdir(path.parent)) == 1


def test_truncated_at_any_byte_it_is_set_aside_or_whole(cache: Path) -> None:
    store.add(H200, {BLUR.key: entry(BLUR, OTHER)})
    path = store.path_of(H200)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):  # the last bytes are "}\n"
        path.write_bytes(whole[:length])
        with pytest.warns(UserWarning, match="set aside"):
            assert store.read(H200) == {}


@pytest.mark.parametrize("folder", ["/proc/akm", "a file"])
def test_what_cannot_be_written_serves_this_process(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("AKM_CACHE_DIR", str(tmp_path / folder))
    with pytest.warns(UserWarning, match="cannot be written.*AKM_CACHE_DIR"):
        choice.commit(H200, {BLUR.key: entry(BLUR, OTHER)})
    assert choice.choose(BLUR, H200).origin == "cache"


def test_a_folder_for_reading_alone(cache: Path) -> None:
    store.add(H200, {BLUR.key: entry(BLUR, OTHER)})
    cache.chmod(0o500)
    try:
        with warnings.catch_warnings():  # the superuser may write all the same
            warnings.simplefilter("ignore")
            store.add(H200, {"another": {}})
            store.path_of(H200).write_text("{") if os.geteuid() == 0 else None
            assert set(store.read(H200)) <= {BLUR.key, "another"}
    finally:
        cache.chmod(0o700)


WRITER = """
import sys
from akm_triton.launch import store
from akm_triton.launch.device import Device
device = Device("NVIDIA H200", 132, 90, 232_448)
name, count = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
input()
for i in range(count):
    assert store.add(device, {f"{name} {i}": {"plan": [], "padding": "x" * 5000}})
    print(i, flush=True)
"""


def writer(name: str, count: int) -> subprocess.Popen[str]:
    """A process that is ready to commit so many entries."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, name, str(count)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def test_a_writer_that_waited_while_the_cache_was_emptied_is_alone(cache: Path) -> None:
    cache.mkdir()
    path, entered, leave = store.path_of(H200), threading.Event(), threading.Event()

    def write() -> None:
        with alone(path):
            entered.set()
            leave.wait(60)

    waiting = threading.Thread(target=write)
    with alone(path):
        waiting.start()
        inode = str(path.with_suffix(".lock").stat().st_ino)
        for _ in range(1000):
            if inode in _waiting_for_locks():
                break
            time.sleep(0.001)
        store.clear()
    assert entered.wait(60)
    with open(path.with_suffix(".lock")) as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    leave.set()
    waiting.join()


def _waiting_for_locks() -> set[str]:
    """The inodes of files whose lock someone waits for, as the kernel lists them."""
    lines = Path("/proc/locks").read_text().splitlines()
    return {line.split()[6].split(":")[-1] for line in lines if "->" in line}


def test_two_writers_lose_nothing() -> None:
    both = [writer(name, 60) for name in ("first", "second")]
    for process in both:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    for process in both:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert set(store.read(H200)) == {f"{n} {i}" for n in ("first", "second") for i in range(60)}


def test_killed_while_writing_it_loses_nothing_committed(cache: Path) -> None:
    for attempt in range(3):
        process = writer(f"attempt {attempt}", 100_000)
        assert process.stdin and process.stdout
        process.stdin.write("\n")
        process.stdin.flush()
        committed = [int(process.stdout.readline()) for _ in range(3 + attempt)][-1]
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        committed = max([committed, *(int(x) for x in process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        process.stdin.close()
        found = store.read(H200)  # a warning would be an error here
        assert {f"attempt {attempt} {i}" for i in range(committed + 1)} <= set(found)
    assert store.add(H200, {"after": {}})  # the lock of the dead is gone
    assert store.clear() == 1
    assert store.read(H200) == {} and not list(cache.glob("*.json*"))


def test_shipped_plans_are_of_these_kernels_and_are_plans() -> None:
    for path in store.SHIPPED.glob("*.json"):
        found = json.loads(path.read_text("utf-8"))
        assert found["environment"]["kernels"] == store.kernel_hash(), "run bench tune-device"
        assert path.stem == slug(found["environment"]["device"])
        assert {"torch", "commit", "date", "driver"} <= found["provenance"].keys()
        for held in found["entries"].values():
            assert held["rule_seconds"] > 1.03 * held["seconds"]


# What a user calls.


def test_show_and_clear(
    capsys: pytest.CaptureFixture[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = ["8", "64", "112", "112", "--dtype", "float16"]
    command.main(["show", *shape])
    found = capsys.readouterr().out
    assert f"{BLUR.key}: from the rule" in found and "blur_backward 16-bit" in found
    choice.commit(H200, {BLUR.key: entry(BLUR, OTHER)})
    command.main(["show", *shape, "--op", "blur"])
    found = capsys.readouterr().out
    assert "from the cache" in found and "10.0 µs measured, 20.0 µs by the rule" in found
    assert str(cache) in found
    theirs = ["package.json", "train.jsonl", ".a.json.1", "nvidia-h200-0123456789ab.json",
              "akm-triton.json", "a.json.unreadable-1", "x.lock", store.path_of(H200).name + "~",
              "my-" + store.path_of(H200).name, store.path_of(H200).stem]  # fmt: skip
    for name in theirs:
        (cache / name).write_text("theirs")
    folder = store.path_of(H200._replace(name="A folder"))
    folder.mkdir()
    path = store.path_of(H200)
    (cache / f"{path.name}.unreadable-17").touch()
    monkeypatch.setattr(os, "replace", lambda *_: os.link(*_))  # killed before it is removed
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        store.add(H200._replace(name="A name " + 30 * "of many words "), {})
    monkeypatch.undo()
    monkeypatch.setenv("AKM_CACHE_DIR", str(cache))
    assert len(list(cache.glob(".akm-triton-*"))) == 1
    command.main(["clear"])
    assert "2 files removed" in capsys.readouterr().out
    assert {x.name for x in cache.iterdir()} == {*theirs, folder.name}
    choice.forget()
    assert choice.choose(BLUR, H200).origin == "rule"
    with pytest.raises(SystemExit):
        command.main(["show", "0", "1", "1", "1"])


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ([[(1, 2, 3)]], {}, ValueError, r"\(N, C, H, W\), got \(1, 2, 3\)"),
        ([[(1, 2, 8, 8)]], {"order": -1}, ValueError, "order must not be negative, got -1"),
        ([[(1, 2, 8, 8)]], {"seconds": 0}, ValueError, "seconds must be positive, got 0"),
        ([[(1, 2, 8, 8)], 3], {}, TypeError, "inputs go with a model, got list"),
        ([torch.nn.ReLU()], {"border": "zeros"}, TypeError, r"\['border'\] go with shapes"),
    ],
)
def test_tune_refuses(args: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        akm.tune(*args, **options)


def test_tune_refuses_in_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="before a capture"):
        akm.tune([(1, 2, 8, 8)])


KERNEL = """import triton


@triton.jit
def kernel(x_ptr, N: tl.constexpr):
    \"\"\"Doubles.\"\"\"
    tl.store(x_ptr, 2 * N)  # twice
"""
SAME = {
    "comment": ("  # twice", ""),
    "docstring": ("Doubles.", "Twice N."),
    "layout": ("kernel(x_ptr, N: tl.constexpr)", "kernel(\n    x_ptr, N: tl.constexpr,\n)"),
}
OTHER_CODE = {
    "constant": ("2 * N", "3 * N"),
    "name": ("x_ptr", "y_ptr"),
    "annotation": (": tl.constexpr", ""),
}


@pytest.mark.parametrize("change", [*SAME, *OTHER_CODE])
def test_the_hash_is_of_what_the_kernels_compute(change: str, tmp_path: Path) -> None:
    (before, after), folder = (SAME | OTHER_CODE)[change], tmp_path / "other"
    folder.mkdir()
    (tmp_path / "a.py").write_text(KERNEL)
    changed = KERNEL.replace(before, after)
    assert changed != KERNEL
    (folder / "a.py").write_text(changed)
    same = store.kernel_hash(tmp_path) == store.kernel_hash(folder)
    assert same is (change in SAME)


def test_the_hash_sees_every_file_of_kernels_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(KERNEL)
    alone = store.kernel_hash.__wrapped__(tmp_path)
    (tmp_path / "helpers.py").write_text("x = 1\n")
    assert store.kernel_hash.__wrapped__(tmp_path) == alone
    (tmp_path / "fourth.py").write_text(KERNEL)
    assert store.kernel_hash.__wrapped__(tmp_path) != alone


@pytest.mark.parametrize("work", [3, None, 2.5])
def test_tune_refuses_what_is_neither_a_module_nor_shapes(work: Any) -> None:
    with pytest.raises(TypeError, match=r"work must be a module or an iterable of shapes"):
        akm.tune(work)


def test_tune_refuses_a_single_shape_and_an_order_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"a shape must be \(N, C, H, W\), got 32"):
        akm.tune((32, 64, 56, 56))
    with pytest.raises(TypeError, match=r"order must be an int, got 1.5"):
        akm.tune([(1, 1, 4, 4)], order=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "on"),
    [("1", True), ("true", True), ("Yes", True), ("on", True), ("", False), ("0", False),
     ("False", False), ("no", False), ("off", False)],
)  # fmt: skip
def test_the_switch_of_autotuning(value: str, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKM_AUTOTUNE", value)
    assert session.autotune_is_on() is on


def test_autotuning_refuses_what_it_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKM_AUTOTUNE", "maybe")
    with pytest.raises(ValueError, match=r"AKM_AUTOTUNE must be 1, true, yes or on.* got 'maybe'"):
        session.autotune_is_on()
    for value in ("abc", "0", "-1", "inf", "nan"):
        monkeypatch.setenv("AKM_AUTOTUNE_SECONDS", value)
        with pytest.raises(ValueError, match=f"AKM_AUTOTUNE_SECONDS must be .* got {value!r}"):
            session.autotune_seconds()


def test_the_environment_switches_autotuning_on() -> None:
    script = "import akm_triton; from akm_triton.launch import choice; print(choice.observers)"
    environment = {**os.environ, "AKM_AUTOTUNE": "true"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "function autotune" in done.stdout


# The clock of a GPU, on one that only writes down what it is asked.


class FakeGpu:
    """In the place of ``torch.cuda``."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.pools: list[Any] = []
        self.live: list[Any] = []
        self.streams = ["default"]
        gpu = self

        class CUDAGraph:
            def __init__(self) -> None:
                self.index = len(gpu.pools)

            def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
                assert gpu.streams[-1] == "side" and capture_error_mode == "thread_local"
                # c10's CUDACachingAllocator refuses a pool whose graphs are all gone
                assert not gpu.pools or any(graph() is not None for graph in gpu.live)
                gpu.pools.append(pool)
                gpu.live.append(weakref.ref(self))
                gpu.log.append("capture")

            def capture_end(self) -> None:
                gpu.log.append("captured")

            def replay(self) -> None:
                gpu.log.append(f"replay {self.index}")

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.index = len(gpu.log)
                gpu.log.append("event")

            def elapsed_time(self, end: Any) -> float:
                """Milliseconds: the graph that was replayed between, from 1 on."""
                between = gpu.log[self.index + 1 : end.index]
                assert len(between) == 1, between
                return 1.0 + int(between[0].removeprefix("replay "))

        class Stream:
            def wait_stream(self, other: Any) -> None:
                pass

        @contextlib.contextmanager
        def stream(_: Any) -> Iterator[None]:
            gpu.streams.append("side")
            yield
            gpu.streams.pop()

        self.CUDAGraph, self.Event, self.Stream, self.stream = CUDAGraph, Event, Stream, stream

    def device(self, _: Any) -> Any:
        return contextlib.nullcontext()

    def current_stream(self) -> Any:
        return self.Stream()

    def graph_pool_handle(self) -> object:
        return object()

    def synchronize(self) -> None:
        self.log.append("synchronize")


class Flush:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def sum(self) -> None:
        self.log.append("read")


class FakeWork:
    """Only says that it ran."""

    def __init__(self, log: list[str], copies: int) -> None:
        self.log, self.copies = log, copies

    def run(self, plan: Any, turn: int) -> None:
        self.log.append(f"run {plan} {turn}")


@pytest.mark.parametrize("bytes_each", [1000, 70 << 20, 1 << 30])
def test_nothing_but_a_replay_lies_between_the_events(
    bytes_each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu()
    monkeypatch.setattr(torch, "cuda", gpu)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: Flush(gpu.log))
    measuring = clock.Gpu(torch.device("cuda", 0))
    copies = measuring.copies(bytes_each)
    assert 1 <= copies <= 64 and (copies - 1) * bytes_each <= clock.FLUSH
    work: Any = FakeWork(gpu.log, copies)
    found: list[float] = []
    plans: Any = ["a", "b", "c"]
    for some in ([plans[0]], [plans[1]], plans):
        start = len(gpu.log)
        found += measuring.seconds(some, work, rounds=5)
        log = gpu.log[start:]
        turns = [f"run {plan} {turn}" for plan in some for turn in range(copies)]
        assert [x for x in log if x.startswith("run")] == turns
        for i in range(len(log)):
            if log[i] == "event" and log[i + 1].startswith("replay"):
                assert log[i - 1] == "read"  # the GPU is busy while the host starts the replay
    assert found == pytest.approx([x * 1e-3 / copies for x in (1, 2, 3, 4, 5)])
    assert len(set(map(id, gpu.pools))) == 1 and len(gpu.pools) == 5


def test_of_equal_gpus_the_one_in_use_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[torch.device, int]] = []

    def tune(problems: list[Problem], device: torch.device, **_: Any) -> list[Any]:
        measured.append((device, len(problems)))
        return []

    def warmup(z: torch.Tensor, *_: Any, **__: Any) -> None:
        for observe in choice.observers:  # as the backend does before a launch
            observe(BLUR._replace(h=z.shape[2]), H200, torch.device("cuda", 0), False)

    monkeypatch.setattr(tuner, "tune", tune)
    monkeypatch.setattr(session, "warmup", warmup)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    akm.tune([(1, 1, 4, 4), (1, 1, 8, 8)], device="cpu", verbose=False)
    assert measured == [(torch.device("cuda", 0), 2)]
