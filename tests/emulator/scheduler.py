"""Which lanes go next: control flow, and barriers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.emulator.machine import Machine, Mask, bind
from tests.emulator.memory import Array, Fault, Memory
from tests.emulator.parser import CONTROL, Instruction, Kernel, Unknown

LANES = 2048
"""That run together, or those of a block."""
PATIENCE = 100_000
"""Basic blocks after which a kernel is taken to run for ever."""


def run(kernel: Kernel, grid: int, parameters: dict[str, Any], shared: int, memory: Memory) -> None:
    """All blocks of the grid.

    Raises:
        Fault: says what, and names the instruction.
        Unknown: names the instruction.
    """
    together = min(grid, max(1, LANES // kernel.threads))
    with np.errstate(all="ignore"):
        machine = Machine(kernel, together, grid, shared, memory, parameters)
        scheduler = Scheduler(machine)
        for first in range(0, grid, together):
            machine.start(first)
            scheduler.run(min(together, grid - first))
    memory.check_stores()


class Scheduler:
    """The lanes that are furthest behind go on, so that lanes meet again where their ways do."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.kernel = machine, machine.kernel
        self.end = len(self.kernel.blocks)
        self.blocks = [
            [(bind(machine, x), x) for x in block if not x.is_(*CONTROL)]
            for block in self.kernel.blocks
        ]
        self.ways = [self._way(i, block) for i, block in enumerate(self.kernel.blocks)]
        self.next = np.zeros(machine.lanes, np.int32)
        self.waiting = np.zeros(machine.lanes, np.bool_)

    def run(self, blocks: int) -> None:
        """The first so many blocks of threads that the machine holds."""
        self.next[:], self.waiting[:] = 0, False
        self.next[blocks * self.kernel.threads :] = self.end
        for _ in range(PATIENCE):
            ready = np.where(self.waiting, self.end, self.next)
            now = int(ready.min())
            if now == self.end:
                if self.waiting.any():
                    raise Fault("lanes wait at a barrier for others that wait elsewhere")
                return
            here = ready == now
            mask = None if here.all() else here
            for step, x in self.blocks[now]:
                try:
                    step(mask)
                except Fault as fault:
                    raise Fault(f"{fault}, at {x} in {self.kernel.name}") from None
            self.next[here] = self.ways[now](mask)[here]
            if self.waiting.any():
                self._release()
        raise Fault(f"{self.kernel.name} does not end")

    def _way(self, number: int, block: list[Instruction]) -> Callable[[Mask], Array]:
        """Where each lane goes after a basic block."""
        following = np.full(self.machine.lanes, number + 1, np.int32)
        last = block[-1] if block else None
        if last is None or not last.is_(*CONTROL):
            return lambda mask: following
        if last.is_("bra"):
            target = np.full_like(following, self.kernel.labels[last.operands[0]])
            guard = self.machine.condition(last.guard or "1")
            return lambda mask: np.where(guard(), target, following)
        if last.guard or last.operands not in ([], ["0"]):
            raise Unknown(f"{last}")
        if last.is_("ret", "exit"):
            return lambda mask: np.full_like(following, self.end)

        def wait(mask: Mask) -> Array:
            self.waiting |= True if mask is None else mask
            return following

        return wait

    def _release(self) -> None:
        """Let the blocks of threads go on of which all that have not ended wait."""
        threads = self.kernel.threads
        waiting, place = (x.reshape(-1, threads) for x in (self.waiting, self.next))
        met = (waiting | (place == self.end)).all(1) & waiting.any(1)
        for block in np.flatnonzero(met):
            if len(np.unique(place[block][waiting[block]])) > 1:
                raise Fault("lanes of a block wait at different barriers")
        released = np.repeat(met, threads)
        self.machine.shared.epoch[released] += 1
        self.waiting &= ~released
