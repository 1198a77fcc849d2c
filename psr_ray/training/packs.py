"""Packs: token trees side by side in one sequence, and the log-probabilities of their completions.

Shape key: S tokens of a pack, N scored tokens, C completions, H heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from psr_ray.errors import PsrError
from psr_ray.training.trees import TokenTree

ATTENTION = "token_tree"
# Scored tokens whose logits exist at the same time: 256 × 152k of Qwen2.5 in float32 are 160 MB.
CHUNK = 256
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Span:
    """A run of a pack: its queries, the ranges of its keys, and its mask [queries, keys] (None where
    plain causal attention says the same)."""

    start: int
    stop: int
    keys: tuple[tuple[int, int], ...]
    mask: torch.Tensor | None


@dataclass(frozen=True)
class Pack:
    """Trees side by side, as tensors; ``longest`` is the length of the longest path.

    ``scored_N`` are the tokens that a completion holds, ``before_N`` the tokens that predict them.
    ``members_M`` are places in ``scored_N``, ``owners_M`` the completion each of them counts for: a
    token on which two completions agree is scored once and counts for both.
    """

    ids_S: torch.Tensor
    positions_S: torch.Tensor
    ends_S: torch.Tensor
    scored_N: torch.Tensor
    before_N: torch.Tensor
    members_M: torch.Tensor
    owners_M: torch.Tensor
    lengths_C: torch.Tensor
    longest: int
    spans: tuple[Span, ...]
    block_mask: Any = None


def pack_trees(trees: Sequence[TokenTree], device: torch.device = CPU) -> Pack:
    """Lay trees side by side on a device. Their completions are numbered through, tree by tree. On a GPU
    the pack has FlexAttention's block mask, elsewhere spans."""
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    parents: list[int] = []
    spans: list[Span] = []
    owners: list[tuple[int, int]] = []
    lengths: list[int] = []
    for tree in trees:
        offset = len(ids)
        for run in tree.runs if device.type == "cpu" else ():
            keys = tuple((a + offset, b + offset) for a, b in run.before)
            num_before, num = sum(b - a for a, b in keys), run.stop - run.start
            mask = None
            if num_before:  # all ancestors of the run, and its own tokens so far
                mask = torch.ones(num, num_before + num, dtype=torch.bool).tril_(num_before)
            own = (run.start + offset, run.stop + offset)
            spans.append(Span(*own, (*keys, own), mask))
        for tokens in tree.completions:
            owners += [(token + offset, len(lengths)) for token in tokens]
            lengths.append(len(tokens))
        ids += tree.token_ids
        positions += tree.positions
        ends += [end + offset for end in tree.ends]
        parents += [parent + offset for parent in tree.parents]
    scored = sorted({token for token, _ in owners})
    place = {token: index for index, token in enumerate(scored)}

    def tensor(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, device=device)

    ends_S = tensor(ends)
    return Pack(
        ids_S=tensor(ids),
        positions_S=tensor(positions),
        ends_S=ends_S,
        scored_N=tensor(scored),
        before_N=tensor([parents[token] for token in scored]),
        members_M=tensor([place[token] for token, _ in owners]),
        owners_M=tensor([owner for _, owner in owners]),
        lengths_C=tensor(lengths),
        longest=max(positions) + 1,
        spans=tuple(spans),
        block_mask=None if device.type == "cpu" else block_mask(ends_S),
    )


def span_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Sequence[Span], scale: float
) -> torch.Tensor:
    """Attention [1, H, S, D], run by run: each token meets its ancestors and nothing else."""
    parts = []
    for span in spans:
        own = slice(span.start, span.stop)
        keys, values = (
            torch.cat([tensor[:, :, a:b] for a, b in span.keys], dim=2)
            if len(span.keys) > 1
            else tensor[:, :, own]
            for tensor in (key, value)
        )
        parts.append(
            F.scaled_dot_product_attention(
                query[:, :, own],
                keys,
                values,
                attn_mask=span.mask,
                is_causal=span.mask is None,
                scale=scale,
                enable_gqa=key.shape[1] != query.shape[1],
            )
        )
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def block_mask(ends_S: torch.Tensor) -> Any:
    """FlexAttention's block mask of a pack: q sees k where k <= q < ends[k]."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(_b: Any, _h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (k <= q) & (q < ends_S[k])

    size = len(ends_S)
    return create_block_mask(sees, None, None, size, size, device=ends_S.device)


def dense_mask(ends_S: torch.Tensor) -> torch.Tensor:
    """The same as a matrix [S, S]."""
    place = torch.arange(len(ends_S), device=ends_S.device)
    return (place[None, :] <= place[:, None]) & (place[:, None] < ends_S[None, :])


def tree_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    pack: Pack | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of transformers' models (``attn_implementation``); plain causal without a pack."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    grouped = key.shape[1] != query.shape[1]
    window = others.get("sliding_window")
    if pack is not None and window is not None and pack.longest > window:
        raise PsrError(
            f"the model attends within a window of {window} tokens, and a row has {pack.longest}: token "
            f"trees need full attention; set model.max_length to {window}"
        )
    if pack is None:
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=grouped
        )
    elif pack.block_mask is not None:
        out = compiled_flex()(
            query, key, value, block_mask=pack.block_mask, scale=scale, enable_gqa=grouped
        )
    else:
        out = span_attention(query, key, value, pack.spans, scale)
    return out.transpose(1, 2).contiguous(), None


_compiled: dict[str, Callable[..., Any]] = {}


def compiled_flex() -> Callable[..., Any]:
    """FlexAttention, compiled once a process."""
    from torch.nn.attention.flex_attention import flex_attention

    if not _compiled:
        _compiled["flex"] = torch.compile(flex_attention, dynamic=True)
    return _compiled["flex"]


def register_attention() -> str:
    """Make ``tree_attention`` known to transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, tree_attention)
    return ATTENTION


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
            pack=pack,
        ).last_hidden_state[0]
        logps_N: torch.Tensor = self.head(hidden_SD[pack.before_N], pack.ids_S[pack.scored_N])
        sums_C = logps_N.new_zeros(len(pack.lengths_C))
        return sums_C.index_add(0, pack.owners_M, logps_N[pack.members_M])
