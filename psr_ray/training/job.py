"""A training job as plain values, and the processes that work on it; imports without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from psr_ray.config import Config, TrainingConfig
from psr_ray.runs import CHECKPOINTS
from psr_ray.storage.files import read_json

if TYPE_CHECKING:
    import torch

# In the folder of checkpoints: names the newest complete one.
LATEST = "latest.json"


@dataclass(frozen=True)
class TrainingJob:
    """All a worker needs to know; plain values, so that it travels to any node."""

    kind: Literal["sft", "dpo"]
    config: Config
    model: str
    stage: str
    run_dir: Path
    out: Path
    data: Path
    preferences: Path | None = None
    round: tuple[int, int] = (1, 1)
    """Which round's training this is, of how many."""
    nodes: tuple[str, ...] = ()
    """Of engines that sleep, their ids: a worker takes the GPU of each. Empty: GPUs of their own."""

    @property
    def training(self) -> TrainingConfig:
        return self.config.trainings()[self.kind]


def steps_kept(out: Path) -> int:
    """Optimizer steps in the newest checkpoint of a training's folder."""
    latest = read_json(out / CHECKPOINTS / LATEST)
    return 0 if latest is None else int(latest["step"])


def environment(training: TrainingConfig) -> dict[str, str]:
    """Environment of a training worker's process."""
    variables = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    if not training.use_gpu:
        variables |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(training.cpus_per_worker)}
    return variables


@dataclass(frozen=True)
class Worker:
    """One of ``num_workers`` processes, and the device it computes on."""

    rank: int
    num_workers: int
    device: torch.device

    @classmethod
    def here(cls, training: TrainingConfig) -> Worker:
        """This process, in the process group that Ray Train has made (alone without one)."""
        import torch
        import torch.distributed as dist

        grouped = dist.is_initialized()
        if training.use_gpu:
            device = torch.device("cuda", torch.cuda.current_device())
        else:
            device = torch.device("cpu")
            torch.set_num_threads(training.cpus_per_worker)
        return cls(
            dist.get_rank() if grouped else 0, dist.get_world_size() if grouped else 1, device
        )

    def total(self, sums: dict[str, float]) -> dict[str, float]:
        """Sums over all workers; all have the same names."""
        if self.num_workers == 1:
            return dict(sums)
        import torch
        import torch.distributed as dist

        names = sorted(sums)
        values = torch.tensor([sums[name] for name in names], dtype=torch.float64).to(self.device)
        dist.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all workers, of one shape."""
        if self.num_workers == 1:
            return [tensor]
        import torch
        import torch.distributed as dist

        tensors = [torch.empty_like(tensor).to(self.device) for _ in range(self.num_workers)]
        dist.all_gather(tensors, tensor.to(self.device))
        return [other.to(tensor.device) for other in tensors]

    def from_first(self, value: Any) -> Any:
        """Rank 0's value; other ranks' ``value`` is ignored."""
        if self.num_workers == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def wait(self) -> None:
        """Until all workers are here."""
        if self.num_workers > 1:
            import torch.distributed as dist

            dist.barrier()
