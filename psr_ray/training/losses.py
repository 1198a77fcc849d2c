"""Losses: step-DPO, SFT, and both as terms of a step's loss, sums divided by their batch's count.

Shape key: B pairs, C completions of a micro-batch, N pairs of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from psr_ray.config import DPOConfig, MethodConfig
from psr_ray.plugins import find
from psr_ray.training.examples import PreferenceExample, SFTExample
from psr_ray.training.microbatches import PackedTree, pair_trees, sft_trees

Metrics = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PairLogps:
    """Pairs [B]: log-probabilities of the chosen and the rejected step, summed over their tokens, under
    the policy and under the reference (which carries no gradient), and their numbers of tokens."""

    chosen_B: torch.Tensor
    rejected_B: torch.Tensor
    chosen_reference_B: torch.Tensor
    rejected_reference_B: torch.Tensor
    chosen_tokens_B: torch.Tensor
    rejected_tokens_B: torch.Tensor

    @property
    def nll_B(self) -> torch.Tensor:
        """NLL per token of the chosen step."""
        return -self.chosen_B / self.chosen_tokens_B

    def margin_B(self, settings: DPOConfig) -> torch.Tensor:
        """β × (log-ratio of chosen − log-ratio of rejected), each divided by its number of tokens with
        ``length_normalization``."""
        chosen_ratio = self.chosen_B - self.chosen_reference_B
        rejected_ratio = self.rejected_B - self.rejected_reference_B
        if settings.length_normalization:
            chosen_ratio = chosen_ratio / self.chosen_tokens_B
            rejected_ratio = rejected_ratio / self.rejected_tokens_B
        return settings.beta * (chosen_ratio - rejected_ratio)


# A loss of pairs: returns one value per pair [B], with its gradient.
Objective = Callable[[PairLogps, DPOConfig], torch.Tensor]


def step_dpo_loss(logps: PairLogps, settings: DPOConfig) -> torch.Tensor:
    """Sigmoid loss on the step's tokens [B] (arXiv 2503.03746, section 3; cDPO label smoothing)."""
    margin, smoothing = logps.margin_B(settings), settings.label_smoothing
    return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)


def no_loss(logps: PairLogps, _settings: DPOConfig) -> torch.Tensor:
    """`method.objective: nll`: the NLL term alone is learned."""
    return torch.zeros_like(logps.chosen_B)


OBJECTIVES: dict[str, Objective] = {"dpo": step_dpo_loss, "nll": no_loss}


def objective_of(method: MethodConfig) -> Objective:
    """The loss that `method.objective` names. Raises ``PsrError`` where it is the user's and does not
    fit."""
    found: Objective = find("method.objective", method.objective, OBJECTIVES, ("logps", "settings"))
    return found


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
        return sum(len(said) for i in indices for _, said in examples[i].paths)

    return LossTerm(
        examples, plan, lambda indices, budget: sft_trees(examples, indices, budget), score, size
    )


def dpo_term(
    pairs: Sequence[PreferenceExample],
    plan: list[list[int]],
    settings: DPOConfig,
    reference: torch.Tensor,
    objective: Objective = step_dpo_loss,
) -> LossTerm:
    """The loss of pairs with an optional NLL term, a mean over the pairs of the batch.

    ``reference`` [2, N] are the reference's log-probabilities of all chosen and rejected steps. The DPO
    metrics are reported whatever the ``objective``.
    """

    def score(
        rows: list[int], logps_C: torch.Tensor, lengths_C: torch.Tensor, num_pairs: float
    ) -> tuple[torch.Tensor, Metrics]:
        fixed = reference[:, rows].to(logps_C.device, logps_C.dtype)
        logps = PairLogps(
            *logps_C.view(-1, 2).unbind(dim=1), *fixed, *lengths_C.view(-1, 2).unbind(dim=1)
        )
        margin_B = logps.margin_B(settings)
        loss = objective(logps, settings) + settings.nll_weight * logps.nll_B
        means = {
            "dpo_loss": step_dpo_loss(logps, settings),
            "nll": logps.nll_B,
            "margin": margin_B,
            "accuracy": (margin_B > 0).float(),
            "chosen_logp": logps.chosen_B,
            "rejected_logp": logps.rejected_B,
            "chosen_logp_change": logps.chosen_B - logps.chosen_reference_B,
            "rejected_logp_change": logps.rejected_B - logps.rejected_reference_B,
        }
        metrics = {name: value.detach().sum() / num_pairs for name, value in means.items()}
        return loss.sum() / num_pairs, metrics | {"num_scored_tokens": lengths_C.sum()}

    def trees(indices: Iterable[int], budget: int) -> list[PackedTree]:
        return pair_trees(pairs, indices, budget)

    return LossTerm(pairs, plan, trees, score, lambda indices: len(indices))
