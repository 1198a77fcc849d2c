"""Rounding a training's weights to bfloat16 without losing what they learn.

The optimizer keeps float32 weights; the policy that computes, and that is exported, has them in
bfloat16. A step of step-DPO is far smaller than the distance of neighbouring bfloat16 numbers: rounding
to the nearest drops most of a round, and the training does not see what it does (docs/negative-
results.md, "An update below the rounding"). *Stochastic* rounding takes the upper neighbour with the
probability that makes the mean exact: a weight is off by less than one step, and the update is there in
the sum over many weights (Gupta et al. 2015, arXiv 1502.02551, section 3).
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import torch

from psr_ray.training.deepspeed_internals import trained_part
from psr_ray.training.job import TrainingJob

# Weights that are rounded at once, for the memory of the random bits.
CHUNK = 2**26


def seed_of(job: TrainingJob, name: str, step: int) -> int:
    """The seed of a weight's random bits: the same on all workers and when a training resumes, another
    after each step, so that errors do not add up."""
    return crc32(f"{job.config.seed} {job.kind} {job.round[0]} {step} {name}".encode())


def round_stochastically(values: torch.Tensor, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Finite float32 values in ``dtype``, rounded up or down so that the mean is exact. What ``dtype``
    can hold, in float32 everything, stays as it is.

    bfloat16 is the upper half of float32's bits: random bits are added to the lower half, and what has
    not been carried over is cut off.
    """
    if dtype != torch.bfloat16:
        return values.to(dtype)
    generator = torch.Generator(values.device).manual_seed(seed)
    rounded = torch.empty(values.shape, dtype=dtype, device=values.device)
    flat, out = values.contiguous().view(-1), rounded.view(-1)
    for start in range(0, flat.numel(), CHUNK):
        bits = flat[start : start + CHUNK].view(torch.int32)
        noise = torch.empty_like(bits).random_(2**16, generator=generator)
        out[start : start + CHUNK] = noise.add_(bits).bitwise_and_(-(2**16)).view(torch.float32)
    return rounded


@torch.no_grad()
def round_policy(engine: Any, model: Any, job: TrainingJob, step: int) -> None:
    """Round the optimizer's float32 weights stochastically into the policy after a step, where DeepSpeed
    has rounded them to the nearest. With ZeRO all workers must call it. A float32 training stays as
    it is."""
    for name, value in model.named_parameters():
        if not value.requires_grad or value.dtype != torch.bfloat16:
            continue
        with trained_part(engine, value) as (own, weight, rank):
            seed = seed_of(job, f"{name} {rank}", step)
            rounded = round_stochastically(weight.to(own.device), own.dtype, seed)
            own.copy_(rounded.view(own.shape))
