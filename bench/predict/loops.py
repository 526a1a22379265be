"""The way of a program through its code: a prologue, the loop over tiles, and what comes after."""

from __future__ import annotations

from dataclasses import dataclass

from bench.predict.sass import Instruction

Span = tuple[int, int]
"""The first and the last instruction of a loop."""

_WORK = {"LDG", "LDGSTS", "STG", "HGMMA", "HMMA"}


@dataclass(frozen=True)
class Path:
    """Indices into the code, in the order in which they are executed."""

    before: list[int]
    body: list[int]
    """A round of the outermost loop over tiles."""
    after: list[int]
    rounds: float
    """How often a program goes through the body."""


def path(code: list[Instruction], images: float, blocks: float) -> Path:
    """The way of a program that goes through so many images, each of so many blocks of rows.

    The code says how they are nested: in one loop over all tiles, or in a loop over images with one
    over blocks inside. Loops before and after it are taken to go round once.
    """
    found = _loops(code)
    outer = [x for x in found if not any(_inside(x, other) for other in found)]
    if not outer:
        return Path([], _walk(code, (0, len(code) - 1), [], 1), [], 1.0)
    main = max(outer, key=lambda span: _work(code, span))
    inner = [x for x in found if _inside(x, main) and _work(code, x)]
    rounds, repeats = (images, blocks) if inner else (images * blocks, 1.0)
    return Path(
        _walk(code, (0, main[0] - 1), found, 1),
        _walk(code, main, inner, max(1, round(repeats))),
        _walk(code, (main[1] + 1, len(code) - 1), found, 1),
        rounds,
    )


def _loops(code: list[Instruction]) -> list[Span]:
    """A loop ends with the last branch back to its first instruction."""
    ends: dict[int, int] = {}
    for n, x in enumerate(code):
        if x.base == "BRA" and x.target is not None and x.target < n:
            ends[x.target] = n
    return sorted(ends.items())


def _inside(span: Span, other: Span) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]


def _work(code: list[Instruction], span: Span) -> int:
    return sum(x.base in _WORK for x in code[span[0] : span[1] + 1])


def _walk(code: list[Instruction], span: Span, inner: list[Span], repeats: int) -> list[int]:
    """The span once, and loops that begin in it ``repeats`` times."""
    ends = dict(inner)
    way, n = [], span[0]
    while n <= span[1]:
        if n in ends:
            here = n, ends[n]
            way += repeats * _walk(code, here, [x for x in inner if _inside(x, here)], 1)
            n = here[1] + 1
            continue
        way.append(n)
        n = _next(code, n, inner)
    return way


def _next(code: list[Instruction], n: int, loops: list[Span]) -> int:
    """Forward branches are taken if nothing stands against it, or around a division: a call."""
    target = code[n].target
    if code[n].base != "BRA" or target is None or target <= n:
        return n + 1
    if any(n < first < target for first, _ in loops):
        return n + 1
    passed = code[n + 1 : target]
    calls = any(x.base == "CALL" for x in passed) and not any(x.base in _WORK for x in passed)
    return target if calls or not code[n].predicate else n + 1
