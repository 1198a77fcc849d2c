"""GPU-hours and money of a run, by stage, from its work and a kind of GPU (docs/planning.md)."""

from __future__ import annotations

from dataclasses import dataclass

from psr_ray.config import Config, TrainingConfig
from psr_ray.planning.model import ModelShape


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, by its data sheet: memory (GiB), dense bf16 peak (FLOP/s), bandwidth (byte/s)."""

    memory_gib: float
    flops: float
    bandwidth: float


GPUS = {
    "a100-40": Gpu(40, 312e12, 1.555e12),
    "a100": Gpu(80, 312e12, 2.039e12),
    "h100": Gpu(80, 989e12, 3.35e12),
    "h200": Gpu(141, 989e12, 4.8e12),
    "l40s": Gpu(48, 362e12, 0.864e12),
}
# Shares of those peaks that are reached: assumptions, stated with every plan.
TRAINING_SHARE = 0.35
PREFILL_SHARE = 0.4
BANDWIDTH_SHARE = 0.6


def training_hours(
    shape: ModelShape, training: TrainingConfig, gpu: Gpu, tokens: float, *, reference: bool
) -> float:
    """GPU-hours of training on ``tokens`` tokens: 6 FLOPs a parameter and token, 8 with recomputed
    activations, 2 more where the reference is scored first (Kaplan et al., arXiv 2001.08361, 2.1)."""
    each = (8 if training.gradient_checkpointing else 6) + (2 if reference else 0)
    return each * shape.parameters * tokens / (gpu.flops * TRAINING_SHARE) / 3600


def generation_hours(
    config: Config, shape: ModelShape, gpu: Gpu, prompt_tokens: float, tokens: float, length: float
) -> float:
    """GPU-hours of an engine's prompts and generated tokens.

    A decoding step reads the weights once for all sequences in flight, and each one's KV cache of about
    ``length`` tokens; prompt tokens that are not in the prefix cache cost 2 FLOPs a parameter.
    """
    gpus = max(config.engine.tensor_parallel_size, 1)
    sequences = config.engine.max_num_seqs
    step_bytes = shape.weight_bytes + sequences * length * shape.kv_bytes
    decode_s = tokens / sequences * step_bytes / (gpus * gpu.bandwidth * BANDWIDTH_SHARE)
    prefill_s = 2 * shape.parameters * prompt_tokens / (gpus * gpu.flops * PREFILL_SHARE)
    return gpus * (decode_s + prefill_s) / 3600
