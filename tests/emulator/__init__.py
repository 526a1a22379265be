"""Runs compiled kernels without a GPU: an interpreter of PTX in NumPy that looks for faults.

Every lane of some blocks runs at once. A ``Fault`` is an access out of a tensor or of shared memory
or off its alignment; a read of shared memory that was never written, or that cp.async or another
warp may still be writing; a write over what others may still be reading; a wgmma without its
fences, or whose registers are touched before it is waited for; a barrier that not all reach; and
one byte of a result written twice, differently. An instruction that it does not know is
``Unknown``; to teach it one, see the ``handles`` of machine.py.

Not seen: hazards among the lanes of a warp, which run in step here; the order of rounding in matrix
products, which are summed in float64 and rounded once; approximations, which are exact here; what
the assembler makes of PTX; time.
"""

# each registers the instructions that it knows
from tests.emulator import arithmetic as arithmetic
from tests.emulator import convert as convert
from tests.emulator import matrix as matrix
from tests.emulator import transfers as transfers
from tests.emulator import warp as warp
from tests.emulator import wgmma as wgmma
