"""Run a function in two processes of one gloo group; nothing here can hang."""

import datetime
import faulthandler
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed

SECONDS = 240


def in_two_processes(function: Callable[..., None], *args: Any) -> None:
    """``function(rank, *args)`` in both; raises if one fails, or takes longer than SECONDS."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(  # type: ignore[attr-defined]
            _member, (folder, function, *args), nprocs=2
        )


def _member(rank: int, folder: str, function: Callable[..., None], *args: Any) -> None:
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(Path(folder) / "store"), 2)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=SECONDS)
    )
    function(rank, *args)
    store.set(f"done {rank}", "")
    store.wait(["done 0", "done 1"])
    # The group's threads are joined under the GIL that they may be waiting for: leave without.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
