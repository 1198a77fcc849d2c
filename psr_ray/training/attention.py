"""Attention over packs of token trees: each token meets its ancestors and itself.

Shape key: S tokens of a pack, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from psr_ray.errors import PsrError

if TYPE_CHECKING:
    from psr_ray.training.packs import Pack

ATTENTION = "token_tree"


@dataclass(frozen=True)
class Span:
    """A run of a pack: its queries, the ranges of its keys, and its mask [queries, keys] (None where
    plain causal attention says the same)."""

    start: int
    stop: int
    keys: tuple[tuple[int, int], ...]
    mask: torch.Tensor | None


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


@cache
def compiled_flex() -> Callable[..., Any]:
    """FlexAttention, compiled once a process."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=True)
    return compiled


def register_attention() -> str:
    """Make ``tree_attention`` known to transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, tree_attention)
    return ATTENTION
