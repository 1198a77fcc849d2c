"""The loss of step-DPO. Shape key: B pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


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
