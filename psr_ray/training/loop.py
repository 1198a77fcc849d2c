"""One DeepSpeed loop for SFT and step-DPO; each Ray Train worker runs ``train``.

A *step* is one optimizer step over ``batch_size`` rows of all workers. Losses are sums divided by the
whole batch's count, so that any split of a batch over workers and forward passes gives the same
gradient.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from psr_ray.config import TrainingConfig
from psr_ray.errors import PsrError
from psr_ray.storage.files import write_text
from psr_ray.training.checkpoint import Checkpoints
from psr_ray.training.distributed import Worker
from psr_ray.training.metrics import MetricsWriter
from psr_ray.training.packs import pack_trees
from psr_ray.training.terms import Figures, Term
from psr_ray.training.units import Pass, passes_of

Sums = dict[str, float]
BAD_BATCH = "bad-batch.json"


def learning_rate(training: TrainingConfig, step: int, num_steps: int) -> float:
    """Learning rate of a step counted from 0."""
    warmup = training.warmup_ratio * num_steps
    if step < warmup:
        return training.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(num_steps - warmup, 1)
    shape = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
    }[training.schedule]
    return training.lr * (training.min_lr_ratio + (1 - training.min_lr_ratio) * shape)


def step_passes(
    terms: Sequence[Term], step: int, worker: Worker, budget: int
) -> list[tuple[Term, Pass, float]]:
    """This worker's forward passes of an optimizer step, and the count that each divides by."""
    passes = []
    for term in terms:
        indices = term.plan[step]
        units = term.units(indices, budget)
        size = term.size(indices)
        for part in passes_of(units, worker.rank, worker.num_workers, budget):
            passes.append((term, part, size))
    return passes


def run_pass(
    engine: Any, term: Term, part: Pass, size: float, worker: Worker
) -> tuple[torch.Tensor, Figures]:
    """Loss of one forward pass, a share of the whole batch's, and its figures."""
    pack = pack_trees([unit.tree for unit in part.units], worker.device)
    loss, figures = term.score(part.rows, engine(pack), pack.lengths_C, size)
    figures["num_tokens"] = torch.tensor(len(pack.ids_S), device=worker.device)
    weight = float(part.counts)
    return loss * weight, {name: value * weight for name, value in figures.items()}


class NotFinite(PsrError):
    """A figure of a step is NaN or infinite; the weights in memory are lost."""

    def __init__(self, names: list[str], step: int, num_steps: int, figures: Sums) -> None:
        super().__init__(names, step, num_steps, figures)  # as they are: errors travel pickled
        self.names, self.step, self.num_steps, self.figures = names, step, num_steps, figures

    def __str__(self) -> str:
        return (
            f"training step {self.step + 1} of {self.num_steps}: {', '.join(self.names)} is not finite; "
            f"lower the learning rate, or look at the step's rows in {BAD_BATCH} of the stage's folder"
        )


def keep_batch(folder: Path, terms: Sequence[Term], error: NotFinite) -> None:
    """Write the rows of a bad step and its figures, for study."""
    rows = [asdict(term.rows[i]) for term in terms for i in term.plan[error.step]]
    figures = {name: str(value) for name, value in error.figures.items()}
    kept = {"step": error.step + 1, "figures": figures, "rows": rows}
    write_text(folder / BAD_BATCH, json.dumps(kept, indent=1))


def run_steps(
    engine: Any,
    terms: Sequence[Term],
    training: TrainingConfig,
    worker: Worker,
    writer: MetricsWriter,
    checkpoints: Checkpoints,
    num_done: int,
    check_first: Callable[[Sums], None] | None,
) -> Sums:
    """The optimizer steps after ``num_done``; returns the last one's figures (means over the batch, all
    workers). There is always one: a checkpoint is never of the last step."""
    num_steps = len(terms[0].plan)
    figures: Sums = {}
    for step in range(num_done, num_steps):
        started = time.time()
        rate = learning_rate(training, step, num_steps)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        passes = step_passes(terms, step, worker, training.tokens_per_pass)
        sums: Sums = {"num_passes": float(len(passes))}
        for number, (term, part, size) in enumerate(passes, start=1):
            engine.set_gradient_accumulation_boundary(number == len(passes))
            loss, parts = run_pass(engine, term, part, size, worker)
            values = torch.stack([value.double() for value in parts.values()]).tolist()
            for name, value in zip(parts, values, strict=True):
                sums[name] = sums.get(name, 0.0) + value
            # undoes DeepSpeed's mean over workers: `loss` is a share of the whole batch's
            engine.backward(loss * worker.num_workers, scale_wrt_gas=False)
        grad_norm = gradient_norm(engine)
        engine.step()
        figures = worker.total(sums)
        if step == 0 and check_first is not None:
            check_first(figures)
        figures["grad_norm"] = float(engine.get_global_grad_norm() or grad_norm)
        bad = [name for name, value in figures.items() if not math.isfinite(value)]
        if bad:
            raise NotFinite(bad, step, num_steps, figures)
        figures["lr"] = rate
        figures["tokens_per_s"] = figures["num_tokens"] / (time.time() - started)
        writer.write(step + 1, figures)
        if (step + 1) % training.checkpoint_steps == 0 and step + 1 < num_steps:
            writer.flush()  # a resumed training keeps the lines of the steps before its checkpoint
            checkpoints.save(step + 1)
    return figures


def gradient_norm(engine: Any) -> float:
    """Norm of the whole gradient before clipping; ZeRO 1-3 report their own after the step."""
    if engine.zero_optimization():
        return 0.0
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


# Distance of the first DPO loss from ln 2. Reference and policy are scored in packs of other shapes,
# which in bfloat16 rounds the sums over a step's tokens differently.
FIRST_LOSS_TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05}


def check_first_dpo_loss(
    figures: Sums, tolerance: float = FIRST_LOSS_TOLERANCES["float32"]
) -> None:
    """The policy starts as the reference, so the first DPO loss is ln 2; else something is wrong."""
    if abs(figures["dpo_loss"] - math.log(2)) > tolerance:
        raise PsrError(
            f"the first step-DPO loss is {figures['dpo_loss']:.6f}, not ln 2 = 0.693147: policy and "
            "reference differ before any update (dropout on, another model than the searches', or "
            "low precision); training stopped, nothing was written"
        )
