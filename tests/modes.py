"""A dispatch mode that sees into the package's own ops, which are one call to any other."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Watch(TorchDispatchMode):
    """Refuses to read a value on the host, and lists the operators that ran and the bytes of every
    tensor they made."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []
        self.made: list[tuple[str, int]] = []

    @property
    def bytes(self) -> list[int]:
        return [size for _, size in self.made]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "akm_triton":
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args)
        if func is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a value was read on the host")
        out = func(*args, **(kwargs or {}))
        self.ops.append(str(func.overloadpacket))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if (
                isinstance(x, torch.Tensor)
                and not x.is_meta
                and x.untyped_storage().data_ptr() not in given
            ):
                self.made.append((self.ops[-1], x.untyped_storage().nbytes()))
        return out
