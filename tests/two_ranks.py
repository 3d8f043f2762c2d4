"""Runs scripts in two processes that form a group, one script after another.

Both are forked after the imports, which take longer than what is run; `torchrun` imports all of it three times.

    python two_ranks.py SCRIPT ARGUMENTS... [-- SCRIPT ARGUMENTS...]

A script has a function `main(*arguments)`.
"""

import gc
import importlib
import os
import signal
import socket
import sys
import traceback
from itertools import groupby
from pathlib import Path

import torch


def run(main, arguments: list[str], rank: int, port: int) -> None:
    """What a forked process does; it does not return."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}}
    code = 1
    try:
        main(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def forked(main, arguments: list[str], port: int) -> bool:
    """Whether both processes ended well; where one did not, the other is not waited for."""
    ranks = []
    for rank in range(2):
        if (child := os.fork()) == 0:
            run(main, arguments, rank, port)
        ranks.append(child)
    for _ in range(2):
        ended, status = os.wait()
        ranks.remove(ended)
        if status:
            for rank in ranks:
                os.kill(rank, signal.SIGKILL)
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = [list(part) for is_break, part in groupby(sys.argv[1:], "--".__eq__) if not is_break]
    mains = []
    for script, *_ in parts:
        sys.path.insert(0, str(Path(script).parent))
        mains.append(importlib.import_module(Path(script).stem).main)
    gc.freeze()  # the children's collections then pass over what was imported
    for main, (_, *arguments) in zip(mains, parts, strict=True):
        if not forked(main, arguments, free_port()):
            raise SystemExit(1)
