"""The kernels on the CPU: triton must be told before anything imports it."""

import os
import sys

if os.environ.get("TRITON_INTERPRET") != "1":
    if "triton" in sys.modules:
        raise RuntimeError(
            "set TRITON_INTERPRET=1, or run tests/run.sh: triton is imported already"
        )
    os.environ["TRITON_INTERPRET"] = "1"
