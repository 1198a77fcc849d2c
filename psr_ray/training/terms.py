"""The parts of a step's loss: SFT rows, step preferences; each a sum divided by its batch's count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from psr_ray.config import DPOConfig
from psr_ray.training.examples import PreferenceExample, SFTExample
from psr_ray.training.losses import step_dpo_loss
from psr_ray.training.units import Unit, pair_units, sft_units

Figures = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Term:
    """One part of a step's loss, of some ``rows``.

    ``plan`` holds the row indices of every optimizer step, ``units(indices, budget)`` lays rows out
    as token trees, ``score(rows, logps_C, lengths_C, size)`` gives the loss of a pass and figures to
    add up, ``size(indices)`` the count of a whole batch by which they are divided.
    """

    rows: Sequence[SFTExample] | Sequence[PreferenceExample]
    plan: list[list[int]]
    units: Callable[[Iterable[int], int], list[Unit]]
    score: Callable[[list[int], torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, Figures]]
    size: Callable[[list[int]], float]


def sft_term(examples: Sequence[SFTExample], plan: list[list[int]]) -> Term:
    """Cross-entropy of the completions, a mean over all their tokens in the batch."""

    def score(
        _rows: list[int], logps_C: torch.Tensor, lengths_C: torch.Tensor, num_tokens: float
    ) -> tuple[torch.Tensor, Figures]:
        loss = -logps_C.sum() / num_tokens
        return loss, {"sft_loss": loss.detach(), "num_scored_tokens": lengths_C.sum()}

    def size(indices: list[int]) -> float:
        return sum(len(examples[i].completion_ids) for i in indices)

    return Term(examples, plan, lambda indices, _: sft_units(examples, indices), score, size)


def dpo_term(
    pairs: Sequence[PreferenceExample],
    plan: list[list[int]],
    settings: DPOConfig,
    reference: torch.Tensor,
    *,
    dpo_weight: float = 1.0,
) -> Term:
    """Step-DPO with an optional NLL term, a mean over the pairs of the batch.

    ``reference`` [2, N] are the reference's log-probabilities of all chosen and rejected steps. With
    ``dpo_weight`` 0 the NLL of the chosen steps is all that is learned; the DPO figures are still
    reported.
    """

    def score(
        rows: list[int], logps_C: torch.Tensor, lengths_C: torch.Tensor, num_pairs: float
    ) -> tuple[torch.Tensor, Figures]:
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
        figures = {name: value.detach().sum() / num_pairs for name, value in means.items()}
        return loss.sum() / num_pairs, figures | {"num_scored_tokens": lengths_C.sum()}

    def units(indices: Iterable[int], budget: int) -> list[Unit]:
        return pair_units(pairs, indices, budget)

    return Term(pairs, plan, units, score, lambda indices: len(indices))
