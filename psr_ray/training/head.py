"""A language model's output head as log-probabilities of given tokens, without all logits at once.

Shape key: N scored tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

# Tokens whose logits exist at the same time: 256 × 152k of Qwen2.5 in float32 are 160 MB.
CHUNK = 256


class SelectedLogps(torch.autograd.Function):
    """Log-probabilities of labels under an output head, whose logits exist for ``chunk`` tokens at a
    time, in the backward pass too, where they are computed again.

    One function, so that the head's weight gets one gradient: ZeRO 2 and 3 reduce it when it comes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        labels_N: torch.Tensor,
        chunk: int,
    ) -> torch.Tensor:
        log_sums, chosen = [], []
        for hidden, labels in zip(
            torch.split(hidden_ND, chunk), torch.split(labels_N, chunk), strict=True
        ):
            logits = F.linear(hidden, weight_VD, bias_V).float()
            log_sums.append(logits.logsumexp(-1))
            chosen.append(logits.gather(1, labels[:, None])[:, 0])
        log_sums_N = torch.cat(log_sums)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, log_sums_N)
        ctx.chunk = chunk
        return torch.cat(chosen) - log_sums_N

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, labels_N, log_sums_N = ctx.saved_tensors
        for_weight = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for_bias = torch.zeros_like(bias_V) if bias_V is not None else None
        for_hidden = []
        parts = (t.split(ctx.chunk) for t in (hidden_ND, labels_N, log_sums_N, grads[0].float()))
        for hidden, labels, log_sums, grad in zip(*parts, strict=True):
            logits = F.linear(hidden, weight_VD, bias_V).float()
            # d logp / d logits = one-hot - softmax
            slope = -torch.exp(logits - log_sums[:, None])
            slope[torch.arange(len(labels)), labels] += 1
            slope = (slope * grad[:, None]).to(hidden.dtype)
            for_hidden.append(slope @ weight_VD)
            if for_weight is not None:
                for_weight.addmm_(slope.T, hidden)
            if for_bias is not None:
                for_bias += slope.sum(0)
        return torch.cat(for_hidden), for_weight, for_bias, None, None


class Head(torch.nn.Module):
    """A model's output head as a function to log-probabilities of labels.

    It holds the head's own parameters, so that ZeRO-3 gathers them when it is called: once a pass,
    whatever the number of tokens, for all workers must gather equally often.
    """

    def __init__(self, head: torch.nn.Linear, chunk: int) -> None:
        super().__init__()
        self.weight, self.bias, self.chunk = head.weight, head.bias, chunk

    def forward(self, hidden_ND: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [N] of the labels."""
        arguments = (hidden_ND, self.weight, self.bias, labels_N, self.chunk)
        logps_N: torch.Tensor = SelectedLogps.apply(*arguments)  # type: ignore[no-untyped-call]
        return logps_N
