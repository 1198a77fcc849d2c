"""What there is to run on: this machine, or the largest node of a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psr_ray.config import TelemetryConfig
from psr_ray.errors import PsrError
from psr_ray.planning.cost import GPUS
from psr_ray.planning.memory import GIB

# Ray's names of kinds of GPU, behind this in a node's resources; others are ours in capitals.
TYPE = "accelerator_type:"
RAY_NAMES = {"A100": "a100-40", "A100-40G": "a100-40", "A100-80G": "a100"}


@dataclass(frozen=True)
class Machine:
    """What a run may use: GPUs of one node and the memory of each, or CPU cores and their memory."""

    num_gpus: int
    gpu_gib: float
    cores: int
    memory_gib: float


def this_machine() -> Machine:
    """The GPUs, cores and memory of this machine."""
    import torch

    num = torch.cuda.device_count()
    gpu = min((torch.cuda.get_device_properties(i).total_memory for i in range(num)), default=0)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(num, gpu / GIB, os.cpu_count() or 1, memory / GIB)


def machine_of(nodes: Sequence[Mapping[str, float]]) -> Machine:
    """The largest of a cluster's nodes, by their resources in Ray. Raises ``PsrError`` for a kind of GPU
    that is not known."""
    largest = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
    num, cores = int(largest.get("GPU", 0)), int(largest.get("CPU", 1))
    memory = largest.get("memory", 0) / GIB
    if not num:
        return Machine(0, 0, cores, memory)
    kinds = [name.removeprefix(TYPE) for name in largest if name.startswith(TYPE)]
    kind = RAY_NAMES.get(kinds[0], kinds[0].lower()) if kinds else "unknown"
    if kind not in GPUS:
        raise PsrError(
            f"the cluster's nodes have {num} GPUs of kind {kind}; say what they are like: --gpus {num} "
            f"--gpu {'|'.join(GPUS)}"
        )
    return Machine(num, GPUS[kind].memory_gib, cores, memory)


def cluster_machine() -> Machine:
    """The largest node of the cluster at ``RAY_ADDRESS``; ``PsrError`` where it does not answer."""
    import ray

    from psr_ray.cluster.connect import join

    join(TelemetryConfig())
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    ray.shutdown()
    return machine_of(nodes)
