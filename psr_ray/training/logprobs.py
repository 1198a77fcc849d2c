"""A causal language model as log-probabilities of packs' completions, without all logits at once.

Shape key: S tokens of a pack, N scored tokens, C completions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from psr_ray.errors import PsrError
from psr_ray.training.packs import Pack

# Tokens whose logits exist at the same time: 256 × 152k of Qwen2.5 in float32 are 160 MB.
CHUNK = 256


class SelectedLogps(torch.autograd.Function):
    """Log-probabilities of labels under an output head. Logits exist for ``chunk`` tokens at a time; in
    the backward pass, where they are computed again, for all tokens and a slice of the vocabulary.

    A slice sees all tokens, so that each entry of the weight's gradient is one product, rounded once:
    sums of bfloat16 chunks are off by three times as much. One function, so that the head's weight gets
    one gradient: ZeRO 2 and 3 reduce it when it comes.
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
        vocabulary, scale_N1 = len(weight_VD), grads[0].float()[:, None]
        for_weight = torch.empty_like(weight_VD) if ctx.needs_input_grad[1] else None
        for_bias = torch.empty_like(bias_V) if bias_V is not None else None
        for_hidden_ND = torch.zeros_like(hidden_ND, dtype=torch.float32)
        width = max(1, ctx.chunk * vocabulary // len(labels_N))
        for start in range(0, vocabulary, width):
            part = slice(start, min(start + width, vocabulary))
            weight = weight_VD[part]
            logits = F.linear(hidden_ND, weight, None if bias_V is None else bias_V[part]).float()
            # d logp / d logits = one-hot - softmax
            slope = torch.exp(logits - log_sums_N[:, None]).neg_()
            inside_N = (labels_N >= start) & (labels_N < part.stop)
            places_N = (labels_N - start).clamp(0, len(weight) - 1)
            slope.scatter_add_(1, places_N[:, None], inside_N[:, None].float())
            slope = (slope * scale_N1).to(hidden_ND.dtype)
            for_hidden_ND += slope @ weight
            if for_weight is not None:
                torch.mm(slope.T, hidden_ND, out=for_weight[part])
            if for_bias is not None:
                for_bias[part] = slope.sum(0, dtype=torch.float32)
        return for_hidden_ND.to(hidden_ND.dtype), for_weight, for_bias, None, None


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


class PackScorer(torch.nn.Module):
    """A causal language model as a function from packs to log-probabilities."""

    def __init__(self, model: Any, chunk: int = CHUNK) -> None:
        super().__init__()
        self.model = model
        head = self.causal.get_output_embeddings()
        if type(head) is not torch.nn.Linear:
            raise PsrError(
                f"output head of type {type(head).__name__}: packs need a plain linear one, without a "
                "LoRA update of its own (dpo.lora.target_modules)"
            )
        self.head = Head(head, chunk)

    @property
    def causal(self) -> Any:
        """The model within LoRA's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(self, pack: Pack, *, plainly: bool = False) -> torch.Tensor:
        """Log-probabilities [C] of a pack's completions, sums over their tokens.

        ``plainly`` has the model itself make all logits of a pack of one path: slow, and what the fast
        way must agree with."""
        if plainly:
            logits_SV = self.model(input_ids=pack.ids_S[None], use_cache=False).logits[0]
            logits_NV, labels_N = logits_SV[pack.before_N].float(), pack.ids_S[pack.scored_N]
            return -F.cross_entropy(logits_NV, labels_N, reduction="sum").view(1)
        hidden_SD = self.causal.get_decoder()(
            input_ids=pack.ids_S[None],
            position_ids=pack.positions_S[None],
            use_cache=False,
            layout=pack.layout,
        ).last_hidden_state[0]
        logps_N: torch.Tensor = self.head(hidden_SD[pack.before_N], pack.ids_S[pack.scored_N])
        sums_C = logps_N.new_zeros(len(pack.lengths_C))
        return sums_C.index_add(0, pack.owners_M, logps_N[pack.members_M])
