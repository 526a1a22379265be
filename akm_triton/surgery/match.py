"""Which layers are meant: by name, by pattern, or by a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

from torch import nn

Selector: TypeAlias = "str | re.Pattern[str] | Callable[[str, nn.Module], bool]"


def selectors(argument: str, value: Selector | Iterable[Selector] | None) -> list[Selector] | None:
    """What was given for ``match`` or ``exclude``, as a list; raises for what selects nothing."""
    if value is None:
        return None
    single = isinstance(value, (str, re.Pattern)) or not isinstance(value, Iterable)
    items: list[Selector] = [value] if single else list(value)  # type: ignore[list-item, arg-type]
    for item in items:
        if not (isinstance(item, (str, re.Pattern)) or callable(item)):
            raise TypeError(
                f"{argument} takes names, compiled patterns and functions of (name, module), "
                f"got {item!r}"
            )
    return items


def selects(item: Selector, names: list[str], module: nn.Module) -> bool:
    """Whether the module is meant, under any of its names.

    A string means a layer, all layers of that ending, or all below that name: ``"layer4"`` and
    ``"conv1"`` both select ``layer4.0.conv1``.
    """
    if isinstance(item, str):
        return any(f".{item}." in f".{name}." for name in names)
    if isinstance(item, re.Pattern):
        return any(item.search(name) for name in names)
    return any(item(name, module) for name in names)
