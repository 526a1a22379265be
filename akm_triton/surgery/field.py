"""How far a network has blurred its images where a layer ends, read off the graph that autograd
keeps: the order of the modules says nothing of branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Blur(NamedTuple):
    """Of one layer."""

    variance: float
    """In pixels² of the map that is blurred."""
    stride: int
    """Of its rows, which are kept."""


class Field(NamedTuple):
    """Of a map, down its rows."""

    jump: float
    """Pixels of the input from one row of the map to the next."""
    variance: float
    """Of all blurs up to here, in pixels² of the input; the most along any way."""
    height: int
    """Rows of the map: of a signal its length, of a volume its depth."""


def fields(images: Tensor, blurs: Mapping[Any, Blur]) -> dict[Any, Field]:
    """The field of each map that a node of the graph returned, back to the images.

    Args:
        images: (N, C, H, W), or signals or volumes, a leaf that requires a gradient.
        blurs: the node of each blurred map, and its blur.

    Nodes that the images do not lead to are left out.
    """
    known: dict[Any, Field | None] = {None: None}
    for end in blurs:
        waiting = [end]
        while waiting:
            node = waiting[-1]
            before = [parent for parent, _ in node.next_functions]
            unknown = [parent for parent in before if parent not in known]
            if unknown:
                waiting += unknown
                continue
            waiting.pop()
            if getattr(node, "variable", None) is images:
                known[node] = Field(1.0, 0.0, images.shape[2])
            else:
                parents = [known[parent] for parent in before]
                known[node] = _behind(node, parents, blurs.get(node), images.dim())
    return {node: field for node in blurs if (field := known[node]) is not None}


def _behind(
    node: Any, before: Sequence[Field | None], blur: Blur | None, rank: int
) -> Field | None:
    """The field of what a node returned, from those of what it took."""
    maps = [field for field in before if field is not None]
    if not maps:
        return None  # of parameters alone
    jump, variance, height = max(maps, key=lambda field: field.variance)
    shape = node._input_metadata[0].shape  # of the map: what its gradient comes in
    rows = shape[2] if len(shape) == rank else height
    if blur is None:
        jump *= _stride(node, height / rows)
    else:
        if rows == height:  # the stride was taken by an earlier node of the layer
            jump /= blur.stride
        variance += jump**2 * blur.variance
        jump *= blur.stride
    return Field(jump, variance, rows)


def _stride(node: Any, ratio: float) -> float:
    """How many rows a node's map skips: as saved in the node, else from the number of rows before
    and after, which padding and cropping change too."""
    if not hasattr(node, "_saved_stride"):
        return round(ratio) if ratio >= 1 else 1 / round(1 / ratio)
    stride: int = (node._saved_stride or node._saved_kernel_size)[0]
    return 1 / stride if getattr(node, "_saved_transposed", False) else stride
