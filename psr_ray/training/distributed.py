"""This process among the workers of a training job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Worker:
    """One of ``num_workers`` processes, and the device it computes on."""

    rank: int
    num_workers: int
    device: torch.device

    def total(self, sums: dict[str, float]) -> dict[str, float]:
        """Sums over all workers; all have the same names."""
        if self.num_workers == 1:
            return dict(sums)
        names = sorted(sums)
        values = torch.tensor([sums[name] for name in names], dtype=torch.float64).to(self.device)
        dist.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all workers, of one shape."""
        if self.num_workers == 1:
            return [tensor]
        tensors = [torch.empty_like(tensor).to(self.device) for _ in range(self.num_workers)]
        dist.all_gather(tensors, tensor.to(self.device))
        return [other.to(tensor.device) for other in tensors]

    def from_first(self, value: Any) -> Any:
        """What rank 0 has; ``value`` is looked at there alone."""
        if self.num_workers == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def wait(self) -> None:
        """Until all workers are here."""
        if self.num_workers > 1:
            dist.barrier()
