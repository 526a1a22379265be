"""Which tiles a launch uses: a plain rule of shape, dtype, layout and device, in one place.

The choices are those that ``python -m bench predict`` finds fastest on an H100 of all that spill no
register. What limits a tile is noted beside it: registers, which wide windows and operands of their
own for each block fill first, or shared memory, of which each stage of the pipeline takes a part.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from akm_triton.launch import axis
from akm_triton.launch.axis import Axis
from akm_triton.launch.counts import power_of_two
from akm_triton.launch.device import Device
from akm_triton.launch.plan import Config, Launch, Plan, tile
from akm_triton.launch.problem import Problem
from akm_triton.launch.sliding import COLUMNS, Sliding, loads_whole_groups, refusal


def rule(problem: Problem, device: Device) -> Plan:
    """The launches of any op on any maps, the same whenever it is asked."""
    slides = _slides(problem)
    if slides:
        config = _sliding(problem, device)
        return tuple(Launch(config, **dict.fromkeys(outputs, True)) for outputs in slides)
    if _parts_axes(problem):
        return tuple(one_axis(step, problem, device) for step in axis.steps(problem))
    kind = problem.is_16bit, problem.channels_last
    if problem.outputs == ("dz",):
        return (Launch(_BLUR[kind](problem, device), dz=True),)
    launches = (
        (config, [name for name in problem.outputs if name[-1] in writes])
        for writes, config in _GRADIENTS[kind](problem, device).items()
    )
    return tuple(
        Launch(config, **dict.fromkeys(outputs, True)) for config, outputs in launches if outputs
    )


def _slides(problem: Problem) -> list[list[str]]:
    """The launches of the sliding form, each by what it writes, where it is the faster one: on maps
    whose tiles want more than one matrix product an axis, as long as windows leave registers."""
    blur, shortest = problem.outputs == ("dz",), min(problem.h, problem.w)
    if refusal(problem) or (problem.is_16bit and not blur):
        return []
    whole = problem.channels_last or loads_whole_groups(problem)
    if problem.is_16bit:
        longest = 3 if problem.channels_last or _loads_singly(problem) else 0
        return [["dz"]] if shortest > 32 and problem.radius <= longest else []
    longest = 8 if blur else 5 if whole else 3
    if shortest <= (16 if whole else 24) or problem.radius > (longest if shortest > 48 else 3):
        return []
    if blur:
        return [["dz"]]
    together = [["dz", "da", "db"]] if problem.radius <= 3 else [["dz", "da"], ["db"]]
    wanted = [[name for name in names if name in problem.outputs] for names in together]
    return [names for names in wanted if names]


def _sliding(problem: Problem, device: Device) -> Sliding:
    """128 lanes, of which those side by side read what is side by side, and so many segments of
    rows that all multiprocessors have programs."""
    groups = -(-problem.w // COLUMNS)
    if problem.channels_last:
        planes = min(64 if problem.is_16bit else 32, power_of_two(problem.c))
        lanes = 256 if problem.is_16bit else 128  # of 16 bits a thread has two channels
        groups = min(lanes // planes, 32, power_of_two(groups))
    else:
        groups = min(32, power_of_two(groups))
        planes = min(128 // groups, power_of_two(problem.c))
    whole = Sliding(planes, groups, problem.h)
    enough = 8 * device.multiprocessors
    segments = -(-enough // whole.programs(problem))
    rows = max(-(-problem.h // segments), min(problem.h, 4 * problem.radius, 32))
    return replace(whole, rows=rows)


def _parts_axes(problem: Problem) -> bool:
    """Whether a launch for each axis is faster, in spite of the map between them: of long windows,
    but where matrix products take half precision as it comes, and of maps that fill so little of
    a tile that most products are of zeros."""
    if problem.only_for_tiles:
        return False
    if problem.longest_side <= 32:
        return _leaves_empty(problem)
    if min(problem.h, problem.w) <= 32:
        return False
    blur = problem.outputs == ("dz",)
    if problem.is_16bit:
        if problem.channels_last:
            return problem.radius > 8 or problem.longest_side <= 44
        return not blur and _loads_singly(problem) and problem.radius <= 8
    if problem.longest_side <= 48:
        return True
    if blur and not problem.channels_last and problem.longest_side <= 64:
        return problem.long_radius  # rows that fill a tile
    return problem.radius > (8 if blur else 5 if loads_whole_groups(problem) else 3)


def _loads_singly(problem: Problem) -> bool:
    """Whether no two elements of a half precision map are loaded at once, while tiles are many."""
    return problem.w % 2 > 0 and problem.longest_side > 64


def _leaves_empty(problem: Problem) -> bool:
    """Whether a small map fills less of its tile, of 16 or 32 pixels a side, than makes it worth
    its products. The map between two launches is read and written once more, and so is what a
    window has beyond the map: long windows are left to tiles."""
    blur, side = problem.outputs == ("dz",), 16 if problem.longest_side <= 16 else 32
    if problem.radius > 8 and (side == 32 or (problem.is_16bit and not blur)):
        return False
    worth = _WORTH[problem.is_16bit, problem.channels_last, blur][side == 32]
    return problem.h * problem.w < worth * side**2


def one_axis(step: axis.Step, problem: Problem, device: Device) -> Launch:
    """The launch of one axis, of any maps and radius: mostly 128 lanes, of which those side by side
    read what is side by side, and so many segments of rows that all multiprocessors have
    programs."""
    whole = Axis(step.axis, 1, 1, 1, 1, 1)
    rows, w = whole.size(problem)
    down, gradient = whole.down(problem), bool(step.z)
    if not down:
        fields = _across(problem, gradient)
    elif problem.channels_last:
        fields = _down_channels(problem, device, gradient, rows, w, whole.turns(problem))
    else:
        fields = _down_planes(problem, device, gradient)
    whole = replace(whole, rows=rows, **fields)
    segments = -(-8 * device.multiprocessors // whole.programs(problem))
    least = min(rows, 4 * problem.radius if down else 16)
    whole = replace(
        whole,
        together=min(whole.together, power_of_two(rows)),
        rows=max(-(-rows // segments), least),
    )
    return Launch(whole, **dict.fromkeys(step.outputs, True))


def _across(problem: Problem, gradient: bool) -> dict[str, Any]:
    """A lane with many columns shares most of its window among them."""
    columns, together = (4, 1) if gradient else (8, 1 if problem.long_radius else 2)
    groups = min(32, power_of_two(-(-problem.w // columns)))
    planes = min(128 // groups, power_of_two(problem.c))
    return dict(planes=planes, groups=groups, columns=columns, together=together)


def _together(problem: Problem, device: Device, gradient: bool) -> int:
    """Rows that keep memory busy and leave registers, which the newest devices spill earlier."""
    many = gradient and not problem.long_radius and device.capability < 100
    return 16 if many else 8


def _down_planes(problem: Problem, device: Device, gradient: bool) -> dict[str, Any]:
    lanes = 256 if problem.is_16bit and not gradient else 128  # of 16 bits a thread has two
    groups = min(lanes, power_of_two(problem.w))
    planes = min(lanes // groups, 128, power_of_two(problem.c))
    return dict(planes=planes, groups=groups, together=_together(problem, device, gradient))


def _down_channels(
    problem: Problem, device: Device, gradient: bool, rows: int, w: int, turned: bool
) -> dict[str, Any]:
    c, spills = power_of_two(problem.c), device.capability >= 100
    # fewer partial sums, which are many where the window is as long as a column
    repeats = (4 if rows <= 56 else 2) if gradient and w > 4 and rows <= 112 else 1
    if problem.is_16bit and gradient:
        # a warp by itself, because the sums of several would meet at the end of every strip
        long = 12 < problem.radius <= 16 and not spills
        return dict(
            planes=min(32, c), num_warps=1, repeats=repeats,
            together=16 if long and (rows > 64 or turned) else 8,
            registers=168 if long and not turned else 0,
        )  # fmt: skip
    planes = min(64 if problem.is_16bit else 32, c)  # of 16 bits a thread has two
    groups = min((256 if problem.is_16bit else 128) // planes, power_of_two(w))
    few = problem.is_16bit and not problem.long_radius and not spills
    return dict(
        planes=planes, groups=groups, repeats=repeats, registers=128 if few else 0,
        together=_together(problem, device, gradient),
    )  # fmt: skip


def _roomy(device: Device) -> bool:
    """Whether a multiprocessor has the shared memory of data centres, of an A100 at least."""
    return device.shared_bytes >= 160_000


def _roomiest(device: Device) -> bool:
    return device.shared_bytes >= 220_000


def _stages(device: Device) -> int:
    return 3 if _roomy(device) else 2


def _wraps(problem: Problem, block_w: int) -> bool:
    """Whether strips of this width must leave the computing of their ends to their neighbours."""
    return problem.border == "circular" and problem.w > block_w


def _tile(problem: Problem, device: Device, shape: tuple[int, int, int], **more: Any) -> Config:
    """``tile``, but with all rows in a block where those beside it would be folded twice, and with
    fewer tiles loaded ahead where each brings operands of its own."""
    planes, rows, columns = shape
    rows = 32 if problem.h <= problem.radius else rows
    config = tile(problem, (planes, rows, columns), **more)
    if problem.asymmetric and config.halo_h and (problem.is_16bit or problem.long_radius):
        most = _stages_of_operands(problem, device)
        return replace(config, num_stages=min(config.num_stages, most))
    return config


def _stages_of_operands(problem: Problem, device: Device) -> int:
    """A stage has the operands of its block and of the rows beside it, which are more with a long
    window, and twice as many of a pair."""
    most = 1 + _roomy(device) + _roomiest(device)
    return min(2, max(1, most - problem.pair - problem.long_radius))


def _half_blur(problem: Problem, device: Device) -> Config:
    a = partial(_tile, problem, device)
    stages = _stages(device)
    if problem.longest_side <= 16:
        return a((1, 16, 16), num_warps=1, programs_per_sm=16)
    if problem.longest_side <= 32:
        return a((1, 32, 32), num_warps=2, programs_per_sm=10)
    if problem.long_radius and problem.w > 64:
        out_w = 64 if _wraps(problem, 128) or problem.pair else None
        return a((1, 64, 128), num_warps=8, out_w=out_w, programs_per_sm=1, num_stages=stages)
    tiles = partial(a, (1, 64, 64), out_w=32 if _wraps(problem, 64) else None, num_stages=stages)
    if problem.pair:
        return tiles(num_warps=4 if device.warpgroup else 8, programs_per_sm=2)
    # where rows are not aligned, more addresses take registers that mma.sync has not left
    registers = 168 if device.warpgroup or not problem.unaligned_rows else 0
    return tiles(num_warps=4, programs_per_sm=3, registers=registers)


def _half_gradients(problem: Problem, device: Device) -> dict[str, Config]:
    a = partial(_tile, problem, device)
    stages = _stages(device)
    if problem.longest_side <= 16:
        return {"zab": a((1, 16, 16), num_warps=1, programs_per_sm=16)}
    if problem.longest_side <= 32:
        return {"zab": a((1, 32, 32), num_warps=1, programs_per_sm=8)}
    if problem.long_radius and problem.w > 64:
        # with few rows several planes, so that products are of one kind, see ``_mixes_wgmma``
        shape = (1, 64, 128) if problem.h > 32 else (2, 32, 128)
        tiles = a(shape, num_warps=8, out_w=64, programs_per_sm=1, num_stages=stages)
        return {"zab": tiles} if device.warpgroup else {"zb": tiles, "a": tiles}
    out_w = 32 if _wraps(problem, 64) else None
    if min(problem.h, problem.w) <= 32:  # likewise
        out_w = 32 if problem.asymmetric else out_w
        tiles = a((1, 32, 64), num_warps=2, out_w=out_w, programs_per_sm=3, num_stages=stages)
        return {"zb": tiles, "a": tiles} if problem.asymmetric else {"zab": tiles}
    tiles = a((1, 64, 64), num_warps=4, out_w=out_w, programs_per_sm=2, num_stages=stages)
    return {"zab": tiles} if device.warpgroup else {"zb": tiles, "a": tiles}


def _float32_blur(problem: Problem, device: Device) -> Config:
    a = partial(_tile, problem, device)
    stages = _stages(device)
    if problem.longest_side <= 16:
        return a((2, 16, 16), num_warps=1, programs_per_sm=16)
    if problem.longest_side <= 32:
        warps = 2 if problem.pair else 1
        return a((1, 32, 32), num_warps=warps, programs_per_sm=8 // warps, num_stages=stages)
    if problem.long_radius and problem.w > 64:
        if problem.pair:
            return a((1, 16, 128), num_warps=8, out_w=32, programs_per_sm=1, num_stages=2)
        return a((1, 32, 128), num_warps=8, out_w=64, programs_per_sm=1, num_stages=stages)
    out_w = 32 if _wraps(problem, 64) else None
    if problem.pair:
        return a((1, 16, 64), num_warps=4, out_w=out_w, programs_per_sm=2, num_stages=2)
    return a((1, 32, 64), num_warps=2, out_w=out_w, programs_per_sm=2, num_stages=stages)


def _float32_gradients(problem: Problem, device: Device) -> dict[str, Config]:
    a = partial(_tile, problem, device)
    stages = _stages(device)
    if problem.longest_side <= 16:
        return {"zab": a((4, 16, 16), num_warps=2, programs_per_sm=4)}
    if problem.longest_side <= 32:
        return {
            "zb": a((1, 32, 32), num_warps=2, programs_per_sm=4),
            "a": a((1, 32, 32), num_warps=1, programs_per_sm=8),
        }
    if problem.long_radius and problem.w > 64:
        tiles = a((1, 32, 128), num_warps=8, out_w=32, programs_per_sm=1, num_stages=stages)
        return {"zb": tiles, "a": tiles}
    out_w = 32 if _wraps(problem, 64) else None
    if problem.radius <= 8:
        narrow = 16 if _wraps(problem, 32) else None
        maps = a((1, 32, 32), num_warps=2, out_w=narrow, programs_per_sm=4)
    else:
        rows = 32 if device.warpgroup else 16
        maps = a((1, rows, 64), num_warps=4, out_w=out_w, programs_per_sm=2, num_stages=2)
    if device.capability == 90 and problem.h > 32:  # by wgmma
        stages = 2 if problem.h <= 64 else 1
        last = a((1, 64, 64), num_warps=4, out_w=out_w, programs_per_sm=2, num_stages=stages)
    else:
        last = a((1, 16, 64), num_warps=1, out_w=32, programs_per_sm=4, num_stages=2)
    return {"zb": maps, "a": last}


def _half_blur_last(problem: Problem, device: Device) -> Config:
    a = partial(_tile, problem, device)
    if problem.longest_side <= 16:
        return a((16, 16, 16), num_warps=8 if problem.pair else 4, programs_per_sm=2)
    if problem.longest_side <= 32 and problem.radius <= 16:
        if problem.pair:
            return a((8, 32, 32), num_warps=8, out_w=16, programs_per_sm=1)
        if _roomy(device):
            return a((16, 32, 32), num_warps=8, programs_per_sm=1)
        return a((8, 32, 32), num_warps=4, programs_per_sm=2)
    if problem.radius <= 8 and problem.asymmetric:
        stages = 1 if problem.pair else 2
        return a((8, 16, 32), num_warps=8, out_w=16, programs_per_sm=1, num_stages=stages)
    if problem.radius <= 8:
        tall, stages = _roomiest(device) and not problem.pair, _stages(device)
        shape = 16, 32 if tall else 16, 32
        return a(shape, num_warps=8, out_w=16, programs_per_sm=1, num_stages=stages)
    if problem.long_radius:
        return _long_last(problem, device)
    if problem.pair:
        if problem.asymmetric:
            return a((4, 16, 64), num_warps=8, out_w=32, programs_per_sm=1, num_stages=1)
        planes = 8 if _roomy(device) else 4
        return a((planes, 16, 64), num_warps=8, out_w=16, programs_per_sm=1, num_stages=2)
    if _roomiest(device) and problem.w <= 64 and not problem.asymmetric:
        return a((16, 16, 64), num_warps=8, out_w=32, programs_per_sm=1, num_stages=2)
    planes, rows = 4 if problem.asymmetric else 8, 32 if _roomiest(device) else 16
    return a((planes, rows, 64), num_warps=8, out_w=32, programs_per_sm=1, num_stages=2)


def _half_gradients_last(problem: Problem, device: Device) -> dict[str, Config]:
    a = partial(_tile, problem, device)
    stages = _stages(device)
    if problem.longest_side <= 16:
        return {"zab": a((16, 16, 16), num_warps=4, programs_per_sm=2)}
    if problem.longest_side <= 32 and problem.radius <= 16:
        if _roomy(device):
            return {"zab": a((16, 32, 32), num_warps=8, out_w=16, programs_per_sm=1)}
        tiles = a((8, 32, 32), num_warps=8, programs_per_sm=1)
        return {"zb": tiles, "a": tiles}
    if problem.radius <= 8:
        tiles = a((16, 16, 32), num_warps=8, out_w=16, programs_per_sm=1, num_stages=stages)
        if problem.asymmetric:
            maps = a((8, 16, 32), num_warps=8, out_w=16, programs_per_sm=1, num_stages=2)
            return {"zb": maps, "a": tiles}
        return {"zb": tiles, "a": tiles}
    if not problem.long_radius:
        planes = 4 if problem.asymmetric else 8
        return {
            "zb": a((planes, 16, 64), num_warps=8, out_w=32, programs_per_sm=1, num_stages=1),
            "a": a((16, 16, 64), num_warps=8, out_w=16, programs_per_sm=1, num_stages=stages),
        }
    return {
        "z": _long_last(problem, device),
        "a": _long_last(problem, device),
        "b": _long_last(problem, device),
    }


def _float32_blur_last(problem: Problem, device: Device) -> Config:
    a = partial(_tile, problem, device)
    if problem.longest_side <= 16:
        return a((8, 16, 16), num_warps=4, programs_per_sm=3)
    if problem.longest_side <= 32 and problem.radius <= 16:
        out_w, stages = 16 if problem.pair else None, _stages(device)
        if problem.asymmetric:
            return a((2, 32, 32), num_warps=4, out_w=16, programs_per_sm=2, num_stages=1)
        return a((4, 32, 32), num_warps=4, out_w=out_w, programs_per_sm=2, num_stages=stages)
    if problem.radius <= 8:
        if problem.pair or problem.asymmetric:
            warps = 8 if problem.pair and problem.asymmetric else 4
            return a((4, 16, 32), num_warps=warps, out_w=16, programs_per_sm=2, num_stages=1)
        if _roomiest(device):
            return a((8, 16, 32), num_warps=8, out_w=16, programs_per_sm=1)
        return a((4, 16, 32), num_warps=4, out_w=16, programs_per_sm=2, num_stages=_stages(device))
    if not problem.long_radius:
        out_w = 32 if _wraps(problem, 64) else None
        rows = 16 if problem.pair else 32
        if device.capability == 90 and not (problem.pair or problem.asymmetric):
            rows = 64  # by wgmma
        return a((1, rows, 64), num_warps=4, out_w=out_w, programs_per_sm=2, num_stages=1)
    return _long_last(problem, device)


def _float32_gradients_last(problem: Problem, device: Device) -> dict[str, Config]:
    a = partial(_tile, problem, device)
    stages = _stages(device)
    if problem.longest_side <= 16:
        return {"zab": a((8, 16, 16), num_warps=4, programs_per_sm=2, num_stages=stages)}
    if problem.longest_side <= 32 and problem.radius <= 16:
        tiles = a((4, 32, 32), num_warps=4, out_w=16, programs_per_sm=2, num_stages=stages)
        return {"zb": tiles, "a": tiles}
    if problem.radius <= 8:
        if problem.asymmetric:
            tiles = a((4, 16, 32), num_warps=4, out_w=16, programs_per_sm=2, num_stages=1)
            return {"zb": tiles, "a": tiles}
        if _roomy(device):
            return {
                "zb": a((8, 16, 32), num_warps=8, out_w=16, programs_per_sm=1, num_stages=2),
                "a": a((8, 32, 32), num_warps=8, out_w=16, programs_per_sm=1, num_stages=2),
            }
        tiles = a((4, 16, 32), num_warps=4, out_w=16, programs_per_sm=2, num_stages=2)
        return {"zb": tiles, "a": tiles}
    if not problem.long_radius:
        out_w = 32 if _wraps(problem, 64) else None
        registers_left = device.warpgroup and problem.border in ("symmetric", "zeros")
        rows = 32 if registers_left else 16
        return {
            "zb": a((1, rows, 64), num_warps=4, out_w=out_w, programs_per_sm=2, num_stages=1),
            "a": a((4, 16, 64), num_warps=4, out_w=32, programs_per_sm=2, num_stages=1),
        }
    return {
        "z": _long_last(problem, device),
        "a": _long_last(problem, device),
        "b": _long_last(problem, device),
    }


def _long_last(problem: Problem, device: Device) -> Config:
    """Of a window so wide that a tile of several channels fits no multiprocessor."""
    block_w, out_w = 64 if problem.radius <= 24 else 128, 16
    if problem.pair and block_w == 128:
        out_w = 32
    shape = 2 if problem.is_16bit else 1, 32 if problem.h <= 32 else 16, block_w
    return _tile(problem, device, shape, num_warps=8, out_w=out_w, programs_per_sm=1, num_stages=1)


# By whether elements have 16 bits and whether channels come last. Gradients have several launches:
# each set of outputs, dz, da and db named by their last letter, with its tiles.
_BLUR = {
    (True, False): _half_blur,
    (True, True): _half_blur_last,
    (False, False): _float32_blur,
    (False, True): _float32_blur_last,
}
_GRADIENTS = {
    (True, False): _half_gradients,
    (True, True): _half_gradients_last,
    (False, False): _float32_gradients,
    (False, True): _float32_gradients_last,
}

# The part of a tile of 16 and of 32 pixels a side that a map must fill, by whether elements have 16
# bits, whether channels come last, and whether it is a blur rather than gradients.
_WORTH = {
    (True, False, True): (0.3, 0.0),
    (True, False, False): (0.2, 0.0),
    (True, True, True): (0.3, 0.0),
    (True, True, False): (0.3, 0.0),
    (False, False, True): (0.35, 0.36),
    (False, False, False): (0.35, 0.55),
    (False, True, True): (0.35, 0.55),
    (False, True, False): (0.45, 1.0),
}
