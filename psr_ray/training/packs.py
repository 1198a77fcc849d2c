"""Packs: token trees side by side in one sequence, and the log-probabilities of their completions.

Shape key: S tokens of a pack, N scored tokens, C completions, H heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from psr_ray.errors import PsrError
from psr_ray.training.trees import TokenTree

ATTENTION = "token_tree"
# Scored tokens whose logits exist at the same time: 256 × 152k of Qwen2.5 in float32 are 160 MB.
CHUNK = 256


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

    def to(self, device: torch.device) -> Pack:
        """The pack on a device; on a GPU with FlexAttention's block mask."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        if device.type != "cpu":
            moved |= {"spans": (), "block_mask": block_mask(moved["ends_S"])}
        return replace(self, **moved)


def pack_trees(trees: Sequence[TokenTree]) -> Pack:
    """Lay trees side by side. Their completions are numbered through, tree by tree."""
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    parents: list[int] = []
    spans: list[Span] = []
    owners: list[tuple[int, int]] = []
    lengths: list[int] = []
    for tree in trees:
        offset = len(ids)
        for run in tree.runs:
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
    return Pack(
        ids_S=torch.tensor(ids),
        positions_S=torch.tensor(positions),
        ends_S=torch.tensor(ends),
        scored_N=torch.tensor(scored),
        before_N=torch.tensor([parents[token] for token in scored]),
        members_M=torch.tensor([place[token] for token, _ in owners]),
        owners_M=torch.tensor([owner for _, owner in owners]),
        lengths_C=torch.tensor(lengths),
        longest=max(positions) + 1,
        spans=tuple(spans),
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


def selected_logps(
    hidden_ND: torch.Tensor, labels_N: torch.Tensor, head: torch.nn.Module, chunk: int = CHUNK
) -> torch.Tensor:
    """Log-probabilities [N] of the labels. Logits exist for ``chunk`` tokens at a time, in the
    backward pass too, where they are computed again."""

    def score(hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return -F.cross_entropy(head(hidden).float(), labels, reduction="none")

    if len(labels_N) <= chunk:
        return score(hidden_ND, labels_N)
    parts = [
        checkpoint(score, hidden, labels, use_reentrant=True)
        if torch.is_grad_enabled()
        else score(hidden, labels)
        for hidden, labels in zip(
            torch.split(hidden_ND, chunk), torch.split(labels_N, chunk), strict=True
        )
    ]
    return torch.cat([part for part in parts if part is not None])


class PackScorer(torch.nn.Module):
    """A causal language model as a function from packs to log-probabilities."""

    def __init__(self, model: Any, chunk: int = CHUNK) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk

    def forward(self, pack: Pack, *, plainly: bool = False) -> torch.Tensor:
        """Log-probabilities [C] of a pack's completions, sums over their tokens.

        ``plainly`` has the model itself make all logits of a pack of one path: slow, and what the fast
        way must agree with."""
        if plainly:
            logits_SV = self.model(input_ids=pack.ids_S[None], use_cache=False).logits[0]
            labels_N = pack.ids_S[pack.scored_N]
            return -F.cross_entropy(logits_SV[pack.before_N].float(), labels_N, reduction="sum")[
                None
            ]
        causal = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        hidden_SD = causal.get_decoder()(
            input_ids=pack.ids_S[None],
            position_ids=pack.positions_S[None],
            use_cache=False,
            pack=pack,
        ).last_hidden_state[0]
        logps_N = selected_logps(
            hidden_SD[pack.before_N],
            pack.ids_S[pack.scored_N],
            causal.get_output_embeddings(),
            self.chunk,
        )
        sums_C = logps_N.new_zeros(len(pack.lengths_C))
        return sums_C.index_add(0, pack.owners_M, logps_N[pack.members_M])
