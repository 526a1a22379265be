"""wgmma, the matrix products of four warps, with operands in shared memory."""

from __future__ import annotations

import numpy as np

from tests.emulator.convert import from_bits
from tests.emulator.machine import Machine, Mask, Step, handles
from tests.emulator.matrix import PLACE, ROW, fragment
from tests.emulator.memory import Array, Fault
from tests.emulator.parser import Instruction, Unknown, operands
from tests.emulator.products import GROUP, Product
from tests.emulator.shared import MANY, Shared


@handles("wgmma.fence.sync.aligned")
def _fence(machine: Machine, x: Instruction) -> Step:
    """Lets products see the registers."""

    def step(mask: Mask) -> None:
        machine.products.fenced[machine.whole(mask, GROUP)] = True

    return step


@handles("fence.proxy.async")
def _proxy_fence(machine: Machine, x: Instruction) -> Step:
    """Lets products see what these lanes have written to shared memory."""

    def step(mask: Mask) -> None:
        warps = machine.shared.warp[machine.taking_part(mask)]
        machine.shared.unfenced &= ~np.isin(machine.shared.writer, warps)

    return step


@handles("wgmma.commit_group.sync.aligned")
def _commit(machine: Machine, x: Instruction) -> Step:
    return lambda mask: machine.products.commit(machine.whole(mask, GROUP))


@handles("wgmma.wait_group.sync.aligned")
def _wait(machine: Machine, x: Instruction) -> Step:
    most = int(x.operands[0], 0)
    return lambda mask: machine.products.wait(machine.whole(mask, GROUP), most)


@handles("wgmma.mma_async.sync.aligned")
def _multiply(machine: Machine, x: Instruction) -> Step:
    """D = ±A ±B + (scale ? D : 0), A (64, k) and B (n, k), in registers or in shared memory."""
    products, shared = machine.products, machine.shared
    shape, *kinds = x.modifiers[3:]
    kind = kinds[1]
    n, k = (int(size) for size in shape.removeprefix("m64n").split("k"))
    if kinds != ["f32", kind, kind] or k != (8 if kind == "tf32" else 16):
        raise Unknown("form")
    results = [machine.register(name) for name in operands(x.operands[0])]
    given = [machine.register(name) for name in operands(x.operands[1])]
    in_registers = x.operands[1].startswith("{")
    descriptor = machine.read(x.operands[2], "b64")
    scale = np.broadcast_to(machine.read(x.operands[3], "pred"), machine.lanes)
    sign = int(x.operands[4], 0) * int(x.operands[5], 0)
    *trans_a, trans_b = [flag != "0" for flag in x.operands[6:]] or [False, False]

    def step(mask: Mask) -> None:
        for group in machine.whole(mask, GROUP):
            if not products.fenced[group]:
                raise Fault("wgmma without wgmma.fence")
            lanes = slice(group * GROUP, (group + 1) * GROUP)
            right, cells = _operand(shared, group, descriptor[lanes], n, k, trans_b, kind)
            own = [register[lanes] for register in given] if in_registers else []
            if in_registers:
                left = fragment(own, kind).reshape(64, k)
            else:
                left, more = _operand(shared, group, given[0][lanes], 64, k, any(trans_a), kind)
                cells = np.union1d(cells, more)
            product = sign * (left.astype(np.float64) @ right.astype(np.float64).T)
            into = [register[lanes] for register in results]
            before = products.last(group, x.operands[0])
            sums = before.values if before else np.stack(into).view(np.float32)
            values = np.where(scale[lanes], sums, 0) + [
                product.reshape(4, 16, n)[:, ROW + i % 4 // 2 * 8, i // 4 * 8 + 2 * PLACE + i % 2]
                .ravel() for i in range(len(into))
            ]  # fmt: skip
            products.start(Product(
                group, products.committed[group], x.operands[0], into, values.astype(np.float32),
                own, [register.copy() for register in own], cells,
            ))  # fmt: skip

    return step


def _operand(
    shared: Shared, group: int, descriptors: Array, rows: int, k: int, trans: bool, kind: str
) -> tuple[Array, Array]:
    """The (rows, k) numbers that a descriptor of shared memory tells of, and their cells."""
    if (descriptors != descriptors[0]).any():
        raise Fault("a descriptor that differs within a warp group")
    size, first = 4 if kind == "tf32" else 2, group * GROUP
    address = _addresses(int(descriptors[0]), rows, k, trans, size).ravel()
    offset = shared.locate(np.full(address.shape, first), address, size)
    cells = shared.cells(offset, size)
    if shared.unfenced[cells].any():
        raise Fault("wgmma reads what was written without fence.proxy.async")
    if (shared.write_epoch[cells] == shared.epoch[first]).any():
        raise Fault("race: wgmma reads what was written since the last barrier")
    shared.will_read(cells, shared.epoch[first], np.int32(MANY))
    return from_bits(shared.views[size][offset // size], kind).reshape(rows, k), np.unique(cells)


def _addresses(descriptor: int, rows: int, k: int, trans: bool, size: int) -> Array:
    """(rows, k): PTX ISA, "Matrix Descriptor Format" and "Strides". ``trans`` means that elements
    of a column lie side by side, not those of a row."""
    start, leading, stride = ((descriptor >> bit & 0x3FFF) << 4 for bit in (0, 16, 32))
    if descriptor >> 49 & 7:
        raise Unknown("a descriptor with a base offset")
    width = (16, 128, 64, 32)[descriptor >> 62]  # bytes that are swizzled together
    i, j = np.arange(rows)[:, None], np.arange(k)[None, :]
    across = width // size
    if not trans:
        offset = i % 8 * width + i // 8 * stride + j // across * leading + j % across * size
    elif width == 16:
        offset = i % across * size + i // across * stride + j % 8 * 16 + j // 8 * leading
    else:
        offset = i % across * size + i // across * leading + j % 8 * width + j // 8 * stride
    address = start + offset
    return address ^ (address >> 7 & width // 16 - 1) << 4
