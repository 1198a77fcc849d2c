"""Ends the children of a process that was killed: vLLM's EngineCore would keep its GPU.

A killed process can't end its children, and vLLM's notices nothing. So a small process beside them waits
for its end (that of a pipe which only it holds open, or another parent of its own):

    python -m psr_ray.inference.guard PID

It looks for children of PID twice a second, until it is told that there will be no more.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from typing import IO

import psutil

# Seconds between two looks for new children.
LOOK_S = 0.5


class Guard:
    """From now on the children of this process, and theirs, end with it, however it ends."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "psr_ray.inference.guard", str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        assert self._process.stdin is not None
        self._pipe: IO[bytes] = self._process.stdin  # open as long as this process lives

    def close(self) -> None:
        """End the children that are there, and wait until that is done."""
        self._pipe.close()
        self._process.wait()

    def all_there(self) -> None:
        """There will be no more children: stop looking for them."""
        with contextlib.suppress(BrokenPipeError):  # somebody has ended it
            self._pipe.write(b"\n")
            self._pipe.flush()


def main(pid: int) -> None:
    """Learn the children of the process that started this one, and theirs; end them when it ends."""
    guarded, family = psutil.Process(pid), dict[int, psutil.Process]()
    pipe, is_looking = sys.stdin.fileno(), True
    while os.getppid() == pid:
        said = select.select([pipe], [], [], LOOK_S)[0]
        if said and not os.read(pipe, 1):
            break
        if is_looking:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = guarded.children(recursive=True)
                family |= {child.pid: child for child in children if child.pid != os.getpid()}
        is_looking = is_looking and not said
        if not is_looking and not family:
            return
    for child in family.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()  # not another process that has its number by now


if __name__ == "__main__":
    main(int(sys.argv[1]))
