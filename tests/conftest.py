"""For every test: compiled graphs come from the code as it is, and from no cache."""

import os

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
