"""Attention over packs of token trees: each token meets its ancestors and itself.

Shape key: S tokens of a pack, H heads, D head size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from psr_ray.errors import PsrError
from psr_ray.training.trees import Run

if TYPE_CHECKING:
    from psr_ray.training.packs import Pack

ATTENTION = "token_tree"


@dataclass(frozen=True)
class Span:
    """A run of a pack: the number of its queries, the segments of its keys, and its mask [queries, keys]
    (None where plain causal attention says the same)."""

    num_queries: int
    segments: tuple[int, ...]
    mask: torch.Tensor | None


@dataclass(frozen=True)
class Spans:
    """A pack's runs, in order, and the lengths of the segments that they share as keys.

    Keys are cut into segments once for all runs: the gradient of a cut is one copy, that of a slice is a
    tensor as large as the pack.
    """

    segments: tuple[int, ...]
    spans: tuple[Span, ...]


def spans_of(runs: Sequence[Run]) -> Spans:
    """The spans of a pack's runs."""
    ranges = [(*run.before, (run.start, run.stop)) for run in runs]
    cuts = sorted({cut for keys in ranges for pair in keys for cut in pair})
    place = {cut: index for index, cut in enumerate(cuts)}
    spans = []
    for run, keys in zip(runs, ranges, strict=True):
        num, num_before = run.stop - run.start, sum(b - a for a, b in run.before)
        mask = None
        if num_before:  # all ancestors of the run, and its own tokens so far
            mask = torch.ones(num, num_before + num, dtype=torch.bool).tril_(num_before)
        segments = tuple(index for a, b in keys for index in range(place[a], place[b]))
        spans.append(Span(num, segments, mask))
    return Spans(tuple(b - a for a, b in itertools.pairwise(cuts)), tuple(spans))


def span_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Spans, scale: float
) -> torch.Tensor:
    """Attention [1, H, S, D], run by run: each token meets its ancestors and nothing else."""
    keys, values = (torch.split(tensor, list(spans.segments), dim=2) for tensor in (key, value))
    queries = torch.split(query, [span.num_queries for span in spans.spans], dim=2)
    parts = []
    for own, span in zip(queries, spans.spans, strict=True):
        parts.append(
            F.scaled_dot_product_attention(
                own,
                torch.cat([keys[index] for index in span.segments], dim=2),
                torch.cat([values[index] for index in span.segments], dim=2),
                attn_mask=span.mask,
                is_causal=span.mask is None,
                scale=scale,
                enable_gqa=key.shape[1] != query.shape[1],
            )
        )
    return torch.cat(parts, dim=2)


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
