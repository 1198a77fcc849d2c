"""Ends the children of a process that was killed: vLLM's EngineCore would keep its GPU.

A killed process can't end its children, and vLLM's notices nothing. So a small process beside them waits
for the end of a pipe that only the guarded one holds open:

    python -m psr_ray.inference.guard PID:START PID:START ...    (children, and when they started)
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import IO

import psutil


def guard_children() -> IO[bytes] | None:
    """From now on the children of this process end with it, however it ends; None where it has none.

    The pipe that is returned must be kept: closing it ends them. Children that come later are theirs
    to guard."""
    family = psutil.Process().children(recursive=True)
    if not family:
        return None
    names = [f"{child.pid}:{child.create_time()}" for child in family]
    command = [sys.executable, "-m", "psr_ray.inference.guard", *names]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    return guard.stdin


def main(names: list[str]) -> None:
    """Wait for the end of the pipe, then end the processes that are still those that were named."""
    sys.stdin.buffer.read()
    for name in names:
        pid, _, started = name.partition(":")
        with contextlib.suppress(psutil.NoSuchProcess):
            child = psutil.Process(int(pid))
            if child.create_time() == float(started):
                child.kill()


if __name__ == "__main__":
    main(sys.argv[1:])
