"""DeepSpeed's Adam for optimizer states in the node's memory: compiled once a machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
from deepspeed.ops.op_builder import CPUAdamBuilder
from filelock import FileLock

from psr_ray.errors import PsrError, last_line
from psr_ray.storage.locations import cache_folder

BUILD_FOLDER = "TORCH_EXTENSIONS_DIR"


def build_folder() -> Path:
    """Where this machine's build of the optimizer lies."""
    version = f"torch-{torch.__version__}-python-{platform.python_version()}"
    return cache_folder() / "extensions" / version / str(CPUAdamBuilder.NAME)


def load_cpu_adam() -> None:
    """Compile the optimizer (a minute), or take what another process of this machine compiled.

    torch marks a build by a file that stays where the builder is killed, and then waits for it for ever.
    So builds lie in a folder of our own, one at a time: a mark that is found there is a dead process's.
    Raises ``PsrError`` where it cannot be compiled.
    """
    folder = build_folder()
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get(BUILD_FOLDER)
    os.environ[BUILD_FOLDER] = str(folder.parent)
    try:
        with FileLock(folder.parent / "building"):
            (folder / "lock").unlink(missing_ok=True)
            CPUAdamBuilder().load(verbose=False)
    except RuntimeError as error:
        raise PsrError(
            f"offload_optimizer: DeepSpeed's Adam cannot be compiled ({last_line(error)}); install a "
            "C++ compiler and ninja on every node that trains, or set it to false"
        ) from error
    finally:
        if before is None:
            del os.environ[BUILD_FOLDER]
        else:
            os.environ[BUILD_FOLDER] = before
