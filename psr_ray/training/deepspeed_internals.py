"""Non-public parts of DeepSpeed, torch's extension builder and bitsandbytes that training uses.

DeepSpeed 0.19.8, torch 2.13.0 and bitsandbytes 0.50 have no public way. Each has a contract test in
tests/test_internals.py; docs/compatibility.md lists them.
"""

from __future__ import annotations

import os
import pickle
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.ops.op_builder import CPUAdamBuilder
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils import safe_get_full_fp32_param, safe_get_local_fp32_param
from deepspeed.utils.tensor_fragment import fragment_address
from filelock import FileLock

from psr_ray.errors import PsrError, last_line
from psr_ray.storage.locations import cache_folder

# Plain classes in the checkpoint files of ZeRO 1 to 3.
SAFE = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
# torch's folder of compiled extensions, an environment variable.
BUILD_FOLDER = "TORCH_EXTENSIONS_DIR"


class TensorsOnly(TorchCheckpointEngine):  # type: ignore[misc]
    """DeepSpeed's checkpoint files, read as tensors and plain values: DeepSpeed itself would unpickle
    them, and run whatever code they name."""

    def load(self, path: str, map_location: Any = None) -> Any:
        """The content of a file. Raises ``PsrError`` where it is damaged or would run code."""
        try:
            with torch.serialization.safe_globals(SAFE):
                return torch.load(path, map_location=map_location, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            said = " ".join(str(error).split())[:200]
            raise PsrError(
                f"{path}: damaged, or no checkpoint of this program ({said}); delete "
                f"{Path(path).parent.parent} to start the training over"
            ) from error


def read_tensors_only(engine: Any) -> None:
    """Have a DeepSpeed engine read its checkpoints by ``TensorsOnly``: no setting chooses the reader."""
    engine.checkpoint_engine = TensorsOnly()


def skip_shared_memory_op() -> None:
    """Keep DeepSpeed on CPU from compiling its shared-memory collectives, which takes a C++ compiler and
    a minute: under Ray they are never used (they need LOCAL_SIZE), gloo does the work either way."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def keep_four_bit_weights(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in place when a layer scores without gradients, as
    the reference does (on a CPU with AVX512-BF16): training would continue from other weights than were
    loaded."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def trained_part(engine: Any, value: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """What a worker can set of a bfloat16 parameter that it trains, the optimizer's float32 weights for
    it, and which part that is. With ZeRO all workers must go through it.

    With ZeRO-3 a worker has its own part, and of small parameters, which DeepSpeed keeps
    whole, all. Without ZeRO the float32 weights are in lists of DeepSpeed's optimizer.
    """
    if hasattr(value, "ds_tensor") and not value.ds_persist:
        rank = torch.distributed.get_rank()
        yield value.ds_tensor, safe_get_local_fp32_param(value), rank
        return
    weight = safe_get_full_fp32_param(value)
    if weight is None:
        optimizer = engine.optimizer
        groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        pairs = (pair for group in groups for pair in zip(*group, strict=True))
        weight = next(kept.detach() for own, kept in pairs if own is value)
    is_sharded = hasattr(value, "ds_tensor")
    with deepspeed.zero.GatheredParameters([value], modifier_rank=0, enabled=is_sharded):
        yield value, weight, 0


def build_folder() -> Path:
    """Where this machine's build of DeepSpeed's CPU Adam lies."""
    version = f"torch-{torch.__version__}-python-{platform.python_version()}"
    return cache_folder() / "extensions" / version / str(CPUAdamBuilder.NAME)


def load_cpu_adam() -> None:
    """Compile DeepSpeed's CPU Adam (a minute), or take what another process of this machine compiled.

    torch marks a build in progress by a file, which stays when the builder is killed; the next build
    then waits for ever. So builds lie in a folder of our own, one at a time, and an old mark is removed.
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
