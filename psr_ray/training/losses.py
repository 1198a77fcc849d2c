"""Losses: step-DPO, SFT, and both as terms of a step's loss, sums divided by their batch's count.

Shape key: B pairs, C completions of a micro-batch, N pairs of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from psr_ray.config import DPOConfig
from psr_ray.training.examples import PreferenceExample, SFTExample
from psr_ray.training.microbatches import PackedTree, pair_trees, sft_trees

Metrics = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PreferenceLoss:
    """Per pair [B]: the DPO term, the NLL per token of the chosen step, and what to watch."""

    dpo_B: torch.Tensor
    nll_B: torch.Tensor
    margin_B: torch.Tensor
    chosen_logp_B: torch.Tensor
    rejected_logp_B: torch.Tensor


def step_dpo_loss(
    chosen_logp_B: torch.Tensor,
    rejected_logp_B: torch.Tensor,
    chosen_reference_B: torch.Tensor,
    rejected_reference_B: torch.Tensor,
    chosen_tokens_B: torch.Tensor,
    rejected_tokens_B: torch.Tensor,
    *,
    beta: float,
    label_smoothing: float,
    length_normalization: bool,
) -> PreferenceLoss:
    """Sigmoid loss on the step's tokens (arXiv 2503.03746, section 3; cDPO label smoothing).

    ``margin`` is beta × (log-ratio of chosen − log-ratio of rejected), each divided by its number
    of tokens with ``length_normalization``. The reference's log-probabilities carry no gradient.
    """
    chosen_ratio = chosen_logp_B - chosen_reference_B
    rejected_ratio = rejected_logp_B - rejected_reference_B
    if length_normalization:
        chosen_ratio = chosen_ratio / chosen_tokens_B
        rejected_ratio = rejected_ratio / rejected_tokens_B
    margin = beta * (chosen_ratio - rejected_ratio)
    dpo = -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    return PreferenceLoss(
        dpo_B=dpo,
        nll_B=-chosen_logp_B / chosen_tokens_B,
        margin_B=margin.detach(),
        chosen_logp_B=chosen_logp_B.detach(),
        rejected_logp_B=rejected_logp_B.detach(),
    )


@dataclass(frozen=True)
class LossTerm:
    """One part of a step's loss, of some ``rows``.

    ``plan`` holds the row indices of every optimizer step, ``trees(indices, budget)`` lays rows out
    as token trees, ``score(rows, logps_C, lengths_C, size)`` gives the loss of a micro-batch and its
    metrics, both to be added up, ``size(indices)`` the count of the full batch that divides them.
    """

    rows: Sequence[SFTExample] | Sequence[PreferenceExample]
    plan: list[list[int]]
    trees: Callable[[Iterable[int], int], list[PackedTree]]
    score: Callable[[list[int], torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, Metrics]]
    size: Callable[[list[int]], float]


def sft_term(examples: Sequence[SFTExample], plan: list[list[int]]) -> LossTerm:
    """Cross-entropy of the completions, a mean over all their tokens in the batch."""

    def score(
        _rows: list[int], logps_C: torch.Tensor, lengths_C: torch.Tensor, num_tokens: float
    ) -> tuple[torch.Tensor, Metrics]:
        loss = -logps_C.sum() / num_tokens
        return loss, {"sft_loss": loss.detach(), "num_scored_tokens": lengths_C.sum()}

    def size(indices: list[int]) -> float:
        return sum(len(examples[i].completion_ids) for i in indices)

    return LossTerm(examples, plan, lambda indices, _: sft_trees(examples, indices), score, size)


def dpo_term(
    pairs: Sequence[PreferenceExample],
    plan: list[list[int]],
    settings: DPOConfig,
    reference: torch.Tensor,
    *,
    dpo_weight: float = 1.0,
) -> LossTerm:
    """Step-DPO with an optional NLL term, a mean over the pairs of the batch.

    ``reference`` [2, N] are the reference's log-probabilities of all chosen and rejected steps. With
    ``dpo_weight`` 0 the NLL of the chosen steps is all that is learned; the DPO metrics are still
    reported.
    """

    def score(
        rows: list[int], logps_C: torch.Tensor, lengths_C: torch.Tensor, num_pairs: float
    ) -> tuple[torch.Tensor, Metrics]:
        chosen, rejected = logps_C.view(-1, 2).unbind(dim=1)
        chosen_tokens, rejected_tokens = lengths_C.view(-1, 2).unbind(dim=1)
        fixed = reference[:, rows].to(logps_C.device, logps_C.dtype)
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
        means = {
            "dpo_loss": result.dpo_B,
            "nll": result.nll_B,
            "margin": result.margin_B,
            "accuracy": (result.margin_B > 0).float(),
            "chosen_logp": result.chosen_logp_B,
            "rejected_logp": result.rejected_logp_B,
            "chosen_logp_change": chosen - fixed[0],
            "rejected_logp_change": rejected - fixed[1],
        }
        metrics = {name: value.detach().sum() / num_pairs for name, value in means.items()}
        return loss.sum() / num_pairs, metrics | {"num_scored_tokens": lengths_C.sum()}

    def trees(indices: Iterable[int], budget: int) -> list[PackedTree]:
        return pair_trees(pairs, indices, budget)

    return LossTerm(pairs, plan, trees, score, lambda indices: len(indices))
