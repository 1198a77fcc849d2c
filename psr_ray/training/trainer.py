"""One training worker: the DeepSpeed loop of SFT and step-DPO, and the export of the model.

A *step* is one optimizer step over ``batch_size`` rows of all workers. Losses are sums divided by the
count of the full batch, so that any split of a batch over workers and micro-batches gives the same
gradient.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from psr_ray.config import DPOConfig, TrainingConfig
from psr_ray.errors import PsrError
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.runs import KEY_FILE
from psr_ray.storage.files import write_text
from psr_ray.telemetry.progress import ProgressWriter
from psr_ray.telemetry.trackers import Trackers
from psr_ray.training.checkpoint import Checkpoints
from psr_ray.training.engine import build_engine
from psr_ray.training.export import export
from psr_ray.training.job import TrainingJob, Worker
from psr_ray.training.losses import LossTerm, Metrics, dpo_term, objective_of, sft_term
from psr_ray.training.metrics import MetricsWriter
from psr_ray.training.microbatches import MicroBatch, microbatches_of
from psr_ray.training.packs import pack_trees
from psr_ray.training.proof import write_proof
from psr_ray.training.reference import TOLERANCES, changes_of, check_packing, reference_of
from psr_ray.training.rounding import round_policy
from psr_ray.training.rows import dpo_data, sft_data

Sums = dict[str, float]
BAD_BATCH = "bad-batch.json"
# Distance of the first DPO loss from ln 2. Reference and policy are scored in packs of other shapes,
# which in bfloat16 rounds the sums over a step's tokens differently.
FIRST_LOSS_TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05}


class Trainer:
    """The policy under DeepSpeed on one worker, and the loss terms of the job's rows."""

    def __init__(self, job: TrainingJob) -> None:
        self.job, self.training = job, job.training
        self.worker = Worker.here(job.training)
        trusted = job.config.model.trust_remote_code
        self.tokenizer = load_tokenizer(job.model, trust_remote_code=trusted)
        prompts = PromptBuilder(self.tokenizer, job.config.prompts)
        self.data = sft_data(job, prompts) if job.preferences is None else dpo_data(job, prompts)
        self.engine, self.model = build_engine(job)
        self.terms: list[LossTerm] = []
        if self.data.pair_plan:
            assert isinstance(self.training, DPOConfig)
            pairs, plan = self.data.pairs, self.data.pair_plan
            self.reference = reference_of(job, self.engine, pairs, self.worker)
            objective = objective_of(job.config.method)
            self.terms.append(dpo_term(pairs, plan, self.training, self.reference, objective))
        if self.data.plan:
            self.terms.append(sft_term(self.data.examples, self.data.plan))
        self.num_steps = len(self.terms[0].plan)
        self.num_passes = self.num_padding_passes = 0.0  # of all workers, in this process's steps

    def run(self) -> None:
        """Train from the newest checkpoint, if there is one, and export the model."""
        job, worker, budget = self.job, self.worker, self.training.tokens_per_pass
        first = [tree for term in self.terms for tree in term.trees(term.plan[0], budget)]
        check_packing(self.engine, first, TOLERANCES[job.config.model.dtype], worker.device)
        checkpoints = Checkpoints(job.out, self.engine, self.training, worker, self.terms)
        num_done = checkpoints.restore()  # after the reference, which is the policy before any step
        if num_done:  # DeepSpeed restores the optimizer's weights, and rounds them to the nearest
            round_policy(self.engine, self.model, job, num_done)
        trackers = trackers_of(job) if worker.rank == 0 else None
        progress = ProgressWriter(job.run_dir, job.stage, "steps")
        writer = MetricsWriter(job.out, progress, self.num_steps, worker.rank, num_done, trackers)
        try:
            started = time.monotonic()
            last = self.run_steps(writer, checkpoints, num_done)
            steps_s = time.monotonic() - started
        except NotFiniteError as error:
            if worker.rank == 0:
                keep_batch(job.out, self.terms, error)
            raise
        learned = {}
        if self.data.pair_plan:
            learned = changes_of(self.engine, self.data.pairs, self.reference, worker, budget)
        writer.close()
        lora = self.training.lora
        if lora is None or not lora.four_bit:  # what is exported then is not what was trained
            write_proof(self.engine, first, job.out, worker)
        export(self.model, self.tokenizer, job, worker.rank)
        if worker.rank == 0:
            facts = {
                "num_steps": self.num_steps,
                "num_rows": len(self.data.pairs) or len(self.data.examples),
                "num_dropped": len(self.data.dropped),
                "dropped": self.data.dropped[:20],
                "steps_s": steps_s,
                "padding_share": self.num_padding_passes / self.num_passes,
                "last": last,
                "learned": learned,
            }
            write_text(job.out / "training.json", json.dumps(facts, indent=1))

    def run_steps(self, writer: MetricsWriter, checkpoints: Checkpoints, num_done: int) -> Sums:
        """The optimizer steps after ``num_done``; returns the metrics of the last one. There is always
        one: a checkpoint is never of the last step."""
        metrics: Sums = {}
        for step in range(num_done, self.num_steps):
            started = time.time()
            rate = learning_rate(self.training, step, self.num_steps, self.job.round)
            for group in self.engine.optimizer.param_groups:
                group["lr"] = rate
            metrics = self.run_step(step)
            metrics["lr"] = rate
            metrics["tokens_per_s"] = metrics["num_tokens"] / (time.time() - started)
            writer.write(step + 1, metrics)
            if (step + 1) % self.training.checkpoint_steps == 0 and step + 1 < self.num_steps:
                writer.flush()  # a resumed training keeps the lines of the steps before its checkpoint
                checkpoints.save(step + 1)
            checkpoints.poll()
        checkpoints.finish()
        return metrics

    def run_step(self, step: int) -> Sums:
        """One optimizer step; returns its metrics, means over the batch of all workers.

        Raises ``NotFiniteError`` where one of them is not finite."""
        engine, worker = self.engine, self.worker
        batches = step_microbatches(self.terms, step, worker, self.training.tokens_per_pass)
        padding = sum(batch.is_padding for _, batch, _ in batches)
        sums: Sums = {"num_passes": float(len(batches)), "num_padding_passes": float(padding)}
        for number, (term, batch, size) in enumerate(batches, start=1):
            engine.set_gradient_accumulation_boundary(number == len(batches))
            loss, parts = run_microbatch(engine, term, batch, size, worker)
            values = torch.stack([value.double() for value in parts.values()]).tolist()
            for name, value in zip(parts, values, strict=True):
                sums[name] = sums.get(name, 0.0) + value
            # undoes DeepSpeed's mean over workers: `loss` is a share of the full batch's
            engine.backward(loss * worker.num_workers, scale_wrt_gas=False)
        grad_norm = gradient_norm(engine)
        engine.step()
        round_policy(engine, self.model, self.job, step + 1)
        metrics = worker.total(sums)
        self.num_passes += metrics["num_passes"]
        self.num_padding_passes += metrics["num_padding_passes"]
        if step == 0 and self.data.pair_plan:
            check_first_dpo_loss(metrics, FIRST_LOSS_TOLERANCES[self.job.config.model.dtype])
        metrics["grad_norm"] = float(engine.get_global_grad_norm() or grad_norm)
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise NotFiniteError(bad, step, self.num_steps, metrics)
        return metrics


def step_microbatches(
    terms: Sequence[LossTerm], step: int, worker: Worker, budget: int
) -> list[tuple[LossTerm, MicroBatch, float]]:
    """This worker's micro-batches of an optimizer step, each with the count that it divides by."""
    found = []
    for term in terms:
        indices = term.plan[step]
        trees, size = term.trees(indices, budget), term.size(indices)
        batches = microbatches_of(trees, worker.rank, worker.num_workers, budget)
        found += [(term, batch, size) for batch in batches]
    return found


def run_microbatch(
    engine: Any, term: LossTerm, batch: MicroBatch, size: float, worker: Worker
) -> tuple[torch.Tensor, Metrics]:
    """Loss of a micro-batch, a share of the full batch's, and its metrics."""
    pack = pack_trees([packed.tree for packed in batch.trees], worker.device)
    loss, metrics = term.score(batch.rows, engine(pack), pack.lengths_C, size)
    metrics["num_tokens"] = torch.tensor(len(pack.ids_S), device=worker.device)
    weight = float(not batch.is_padding)
    return loss * weight, {name: value * weight for name, value in metrics.items()}


def learning_rate(
    training: TrainingConfig, step: int, num_steps: int, round_: tuple[int, int] = (1, 1)
) -> float:
    """Learning rate of a step counted from 0, of a round's training (which one, of how many)."""
    if isinstance(training, DPOConfig) and training.schedule_over == "run":
        number, num_rounds = round_
        step, num_steps = (number - 1) * num_steps + step, num_rounds * num_steps
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


class NotFiniteError(PsrError):
    """A metric of a step is NaN or infinite; the weights in memory are lost."""

    def __init__(self, names: list[str], step: int, num_steps: int, metrics: Sums) -> None:
        super().__init__(
            names, step, num_steps, metrics
        )  # all arguments: exceptions are pickled by them
        self.names, self.step, self.num_steps, self.metrics = names, step, num_steps, metrics

    def __str__(self) -> str:
        return (
            f"training step {self.step + 1} of {self.num_steps}: {', '.join(self.names)} is not finite; "
            f"lower the learning rate, or look at the step's rows in {BAD_BATCH} of the stage's folder"
        )


def keep_batch(folder: Path, terms: Sequence[LossTerm], error: NotFiniteError) -> None:
    """Write the rows of a bad step and its metrics, for study."""
    rows = [asdict(term.rows[i]) for term in terms for i in term.plan[error.step]]
    metrics = {name: str(value) for name, value in error.metrics.items()}
    kept = {"step": error.step + 1, "metrics": metrics, "rows": rows}
    write_text(folder / BAD_BATCH, json.dumps(kept, indent=1))


def trackers_of(job: TrainingJob) -> Trackers:
    """Where a training's metrics go beside its folder."""
    key = job.out / KEY_FILE
    named = key.read_text() if key.is_file() else "none"
    settings = job.training.model_dump(mode="json")
    name = f"{job.run_dir.name}-{job.out.name}-{named}"
    return Trackers(job.config.telemetry, job.out, name, settings)


def gradient_norm(engine: Any) -> float:
    """Norm of the whole gradient before clipping; ZeRO 1-3 report their own after the step."""
    if engine.zero_optimization():
        return 0.0
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def check_first_dpo_loss(
    metrics: Sums, tolerance: float = FIRST_LOSS_TOLERANCES["float32"]
) -> None:
    """The policy starts as the reference, so the first DPO loss is ln 2; else something is wrong."""
    if abs(metrics["dpo_loss"] - math.log(2)) > tolerance:
        raise PsrError(
            f"the first step-DPO loss is {metrics['dpo_loss']:.6f}, not ln 2 = 0.693147: policy and "
            "reference differ before any update (dropout on, another model than the searches', or "
            "low precision); training stopped, nothing was written"
        )
