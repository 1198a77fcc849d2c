"""One DeepSpeed loop for SFT and step-DPO; each Ray Train worker runs ``train``.

A *step* is one optimizer step over ``batch_size`` rows of all workers. DeepSpeed divides each
micro-batch's loss by the number of micro-batches and averages over workers; losses here are sums
divided by the whole batch's count, so any split of a batch gives the same gradient.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from psr_ray.config import DPOConfig, TrainingConfig
from psr_ray.errors import PsrError
from psr_ray.training.examples import PreferenceExample, SFTExample, shares_of_worker
from psr_ray.training.losses import pad, step_dpo_loss, token_logps
from psr_ray.training.metrics import MetricsWriter

Sums = dict[str, float]


@dataclass(frozen=True)
class Worker:
    """This process among its peers."""

    rank: int
    num_workers: int
    device: torch.device


@dataclass(frozen=True)
class Term:
    """One part of a step's loss: rows of a kind, their order, and how a micro-batch is scored.

    ``score(indices, num_rows_or_tokens)`` returns the loss (a sum divided by the whole batch's
    count) and sums to report; ``size(indices)`` is that count.
    """

    plan: list[list[int]]
    score: Callable[[list[int], float], tuple[torch.Tensor, Sums]]
    size: Callable[[list[int]], float]


def deepspeed_config(training: TrainingConfig, accumulation: int, dtype: str) -> dict[str, Any]:
    """DeepSpeed's settings for ours."""
    zero: dict[str, Any] = {"stage": training.zero_stage}
    if training.offload_optimizer and training.zero_stage:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": training.max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": {"enabled": dtype == "float16"},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": training.lr,
                "betas": list(training.betas),
                "weight_decay": training.weight_decay,
                "torch_adam": not training.offload_optimizer,
            },
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


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


def sft_term(
    engine: Any, examples: Sequence[SFTExample], plan: list[list[int]], pad_id: int, worker: Worker
) -> Term:
    """Cross-entropy of the completions, a mean over all their tokens in the batch."""

    def score(indices: list[int], num_tokens: float) -> tuple[torch.Tensor, Sums]:
        batch = pad(
            [(examples[i].prompt_ids, examples[i].completion_ids) for i in indices], pad_id
        ).to(worker.device)
        logps_BT, mask_BT = token_logps(engine, batch)
        loss = -logps_BT.sum() / num_tokens
        return loss, {
            "sft_loss": loss.item(),
            "num_tokens": float(sum(len(examples[i]) for i in indices)),
            "num_scored_tokens": float(mask_BT.sum()),
        }

    def size(indices: list[int]) -> float:
        return sum(len(examples[i].completion_ids) for i in indices)

    return Term(plan, score, size)


def sequence_logps(
    model: Any, examples: Sequence[PreferenceExample], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [2B] and token counts [2B] of the chosen, then of the rejected steps."""
    rows = [(e.prompt_ids, e.chosen_ids) for e in examples]
    rows += [(e.prompt_ids, e.rejected_ids) for e in examples]
    logps_BT, mask_BT = token_logps(model, pad(rows, pad_id).to(device))
    return logps_BT.sum(dim=1), mask_BT.sum(dim=1)


@torch.no_grad()
def reference_logps(
    engine: Any, pairs: Sequence[PreferenceExample], pad_id: int, worker: Worker, micro: int
) -> torch.Tensor:
    """Log-probabilities [2, N] of all chosen and rejected steps under the weights as they are.

    Every worker does its share and all share the whole; NaN stands where nobody filled in.
    """
    engine.eval()
    table = torch.full((2, len(pairs)), math.nan, dtype=torch.float64)
    share = -(-len(pairs) // worker.num_workers)
    mine = [min(worker.rank * share + i, len(pairs) - 1) for i in range(share)]
    for start in range(0, share, micro):
        indices = mine[start : start + micro]
        logps, _ = sequence_logps(engine, [pairs[i] for i in indices], pad_id, worker.device)
        table[:, indices] = logps.view(2, -1).double().cpu()
    if worker.num_workers > 1:
        tables = [torch.empty_like(table).to(worker.device) for _ in range(worker.num_workers)]
        dist.all_gather(tables, table.to(worker.device))
        for other in tables:
            table = torch.where(table.isnan(), other.cpu(), table)
    if bool(table.isnan().any()):
        raise PsrError("reference log-probabilities are incomplete or NaN: the model is broken")
    engine.train()
    return table


def dpo_term(
    engine: Any,
    pairs: Sequence[PreferenceExample],
    plan: list[list[int]],
    pad_id: int,
    worker: Worker,
    settings: DPOConfig,
    reference: torch.Tensor,
    *,
    dpo_weight: float = 1.0,
) -> Term:
    """Step-DPO with an optional NLL term, a mean over the pairs of the batch.

    With ``dpo_weight`` 0 the NLL of the chosen steps is all that is learned; the DPO figures are
    still reported."""

    def score(indices: list[int], num_pairs: float) -> tuple[torch.Tensor, Sums]:
        logps, counts = sequence_logps(engine, [pairs[i] for i in indices], pad_id, worker.device)
        chosen, rejected = logps.chunk(2)
        chosen_tokens, rejected_tokens = counts.chunk(2)
        fixed = reference[:, indices].to(worker.device, logps.dtype)
        result = step_dpo_loss(
            chosen,
            rejected,
            fixed[0],
            fixed[1],
            chosen_tokens,
            rejected_tokens,
            beta=settings.beta,
            label_smoothing=settings.label_smoothing,
            length_normalization=settings.length_normalization,
        )
        loss = dpo_weight * result.dpo_B + settings.nll_weight * result.nll_B
        loss = loss.sum() / num_pairs
        return loss, {
            "dpo_loss": result.dpo_B.sum().item() / num_pairs,
            "nll": result.nll_B.sum().item() / num_pairs,
            "margin": result.margin_B.sum().item() / num_pairs,
            "accuracy": (result.margin_B > 0).float().sum().item() / num_pairs,
            "chosen_logp": result.chosen_logp_B.sum().item() / num_pairs,
            "rejected_logp": result.rejected_logp_B.sum().item() / num_pairs,
            "chosen_logp_change": (chosen.detach() - fixed[0]).sum().item() / num_pairs,
            "rejected_logp_change": (rejected.detach() - fixed[1]).sum().item() / num_pairs,
            "num_tokens": float(
                sum(
                    2 * len(pairs[i].prompt_ids)
                    + len(pairs[i].chosen_ids)
                    + len(pairs[i].rejected_ids)
                    for i in indices
                )
            ),
            "num_scored_tokens": float(counts.sum()),
        }

    return Term(plan, score, lambda indices: float(len(indices)))


def run_steps(
    engine: Any,
    terms: Sequence[Term],
    training: TrainingConfig,
    worker: Worker,
    writer: MetricsWriter,
    check_first: Callable[[Sums], None] | None,
) -> Sums:
    """All optimizer steps; returns the last step's figures (means over the batch, all workers)."""
    num_steps = len(terms[0].plan)
    figures: Sums = {}
    for step in range(num_steps):
        started = time.time()
        micros = [
            (term, indices, term.size(term.plan[step]))
            for term in terms
            for indices in shares_of_worker(
                term.plan[step], worker.rank, worker.num_workers, training.micro_batch_size
            )
        ]
        rate = learning_rate(training, step, num_steps)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        sums: Sums = {}
        grad_norm = 0.0
        for term, indices, size in micros:
            loss, parts = term.score(indices, size)
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            # undoes DeepSpeed's mean over micro-batches and workers: `loss` is a share of the whole
            engine.backward(loss * len(micros) * worker.num_workers)
            if engine.is_gradient_accumulation_boundary():
                grad_norm = gradient_norm(engine)
            engine.step()
        figures = add_over_workers(sums, worker)
        if step == 0 and check_first is not None:
            check_first(figures)
        figures["grad_norm"] = float(engine.get_global_grad_norm() or grad_norm)
        bad = [name for name, value in figures.items() if not math.isfinite(value)]
        if bad:
            raise PsrError(
                f"training step {step + 1} of {num_steps}: {', '.join(bad)} is not finite; lower "
                "the learning rate, or look at the rows of this step"
            )
        figures["lr"] = rate
        figures["tokens_per_s"] = figures["num_tokens"] / (time.time() - started)
        writer.write(step + 1, figures)
    return figures


def gradient_norm(engine: Any) -> float:
    """Norm of the whole gradient before clipping; ZeRO 1-3 report their own after the step."""
    if engine.zero_optimization():
        return 0.0
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def add_over_workers(sums: Sums, worker: Worker) -> Sums:
    """Sums over all workers of figures that are shares of the batch."""
    if worker.num_workers == 1:
        return dict(sums)
    names = sorted(sums)
    values = torch.tensor([sums[name] for name in names], dtype=torch.float64).to(worker.device)
    dist.all_reduce(values)
    return dict(zip(names, values.tolist(), strict=True))


def check_first_dpo_loss(figures: Sums) -> None:
    """The policy starts as the reference, so the first DPO loss is ln 2; else something is wrong."""
    if abs(figures["dpo_loss"] - math.log(2)) > 1e-4:
        raise PsrError(
            f"the first step-DPO loss is {figures['dpo_loss']:.6f}, not ln 2 = 0.693147: policy and "
            "reference differ before any update (dropout on, another model than the searches', or "
            "low precision); training stopped, nothing was written"
        )
