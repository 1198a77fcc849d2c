"""Losses of SFT and step-DPO on padded batches.

Shape key: B rows, T positions, V vocabulary; ``token_logps_BT[b, t]`` is the log-probability of
token t + 1 of row b, so T is one less than the padded length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

IGNORED = -100


@dataclass(frozen=True)
class Padded:
    """Right-padded ids [B, L] and labels [B, L] (``IGNORED`` outside completions)."""

    ids_BL: torch.Tensor
    labels_BL: torch.Tensor

    def to(self, device: torch.device) -> Padded:
        return Padded(self.ids_BL.to(device), self.labels_BL.to(device))


def pad(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> Padded:
    """Prompt and completion of each row, side by side. Causal attention needs no mask for padding
    on the right: no real token sees it, and its own outputs carry no label."""
    length = max(len(prompt) + len(completion) for prompt, completion in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED, dtype=torch.long)
    for index, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        ids[index, :end] = torch.tensor([*prompt, *completion])
        labels[index, len(prompt) : end] = torch.tensor(list(completion))
    return Padded(ids, labels)


def token_logps(model: torch.nn.Module, batch: Padded) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [B, T] of the labelled tokens, zero elsewhere, and their mask [B, T]."""
    logits_BTV = model(input_ids=batch.ids_BL, use_cache=False).logits[:, :-1]
    labels_BT = batch.labels_BL[:, 1:]
    mask_BT = labels_BT != IGNORED
    # only the labelled positions are scored: prompts are most of a batch
    scored_N = -F.cross_entropy(logits_BTV[mask_BT].float(), labels_BT[mask_BT], reduction="none")
    return scored_N.new_zeros(labels_BT.shape).masked_scatter(mask_BT, scored_N), mask_BT


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
