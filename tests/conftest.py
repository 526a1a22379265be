"""For every test: compiled graphs come from the code as it is, from no cache and no pool."""

import os

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
