"""Attention over packs of token trees: each token meets its ancestors and itself.

Shape key: S tokens of a pack, H heads, D head size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from psr_ray.errors import PsrError
from psr_ray.training.trees import Run, TokenTree

ATTENTION = "token_tree"


# Trees up to so many tokens meet all at once under a mask; above, run by run costs less (on two cores; a
# run meets its ancestors alone, a mask also computes what it hides).
DENSE_TOKENS = 512


@dataclass(frozen=True)
class QuerySpan:
    """A run of a pack, or a whole small tree: the number of its queries, the segments of its keys, and
    its mask [queries, keys] (None where plain causal attention says the same)."""

    num_queries: int
    segments: tuple[int, ...]
    mask: torch.Tensor | None


@dataclass(frozen=True)
class QuerySpans:
    """A pack's spans, in order, and the lengths of the segments that they share as keys.

    Keys are cut into segments once for all spans: the gradient of a cut is one copy, that of a slice is
    a tensor as large as the pack.
    """

    segments: tuple[int, ...]
    spans: tuple[QuerySpan, ...]


@dataclass(frozen=True)
class AttentionLayout:
    """Which tokens of a pack see which: spans on a CPU, FlexAttention's block mask on a GPU. ``longest``
    is the length of the longest path."""

    longest: int
    spans: QuerySpans
    block_mask: Any = None


def spans_of(trees: Iterable[TokenTree]) -> QuerySpans:
    """The spans of trees side by side."""
    segments: list[int] = []
    spans: list[QuerySpan] = []
    for tree in trees:
        if len(tree.runs) > 1 and len(tree) <= DENSE_TOKENS:
            spans.append(
                QuerySpan(len(tree), (len(segments),), dense_mask(torch.tensor(tree.ends)))
            )
            segments.append(len(tree))
        else:
            lengths, own = spans_of_runs(tree.runs, len(segments))
            segments += lengths
            spans += own
    return QuerySpans(tuple(segments), tuple(spans))


def spans_of_runs(runs: Sequence[Run], num_before: int) -> tuple[list[int], list[QuerySpan]]:
    """The lengths of a tree's segments, numbered from ``num_before``, and a span for each run."""
    ranges = [(*run.before, (run.start, run.stop)) for run in runs]
    cuts = sorted({cut for keys in ranges for pair in keys for cut in pair})
    place = {cut: index for index, cut in enumerate(cuts, start=num_before)}
    spans = []
    for run, keys in zip(runs, ranges, strict=True):
        num, num_ancestors = run.stop - run.start, sum(b - a for a, b in run.before)
        mask = None
        if num_ancestors:  # all of them, and the run's own tokens so far
            mask = torch.ones(num, num_ancestors + num, dtype=torch.bool).tril_(num_ancestors)
        segments = tuple(index for a, b in keys for index in range(place[a], place[b]))
        spans.append(QuerySpan(num, segments, mask))
    return [b - a for a, b in itertools.pairwise(cuts)], spans


def span_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: QuerySpans, scale: float
) -> torch.Tensor:
    """Attention [1, H, S, D], span by span: each token meets its ancestors and nothing else."""
    dtype = query.dtype
    if query.device.type == "cpu":  # where its gradient takes more than twice as long in bfloat16
        query, key, value = query.float(), key.float(), value.float()
    keys, values = (torch.split(tensor, list(spans.segments), dim=2) for tensor in (key, value))
    queries = torch.split(query, [span.num_queries for span in spans.spans], dim=2)
    parts = []
    for own, span in zip(queries, spans.spans, strict=True):
        parts.append(
            F.scaled_dot_product_attention(
                own,
                joined([keys[index] for index in span.segments]),
                joined([values[index] for index in span.segments]),
                attn_mask=span.mask,
                is_causal=span.mask is None,
                scale=scale,
                enable_gqa=key.shape[1] != query.shape[1],
            )
        )
    return joined(parts).to(dtype)


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts [1, H, any, D] end to end."""
    return torch.cat(list(parts), dim=2) if len(parts) > 1 else parts[0]


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
    layout: AttentionLayout | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of transformers' models (``attn_implementation``); plain causal without a layout."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    grouped = key.shape[1] != query.shape[1]
    window = others.get("sliding_window")
    if layout is not None and window is not None and layout.longest > window:
        raise PsrError(
            f"the model attends within a window of {window} tokens, and a row has {layout.longest}: "
            f"token trees need full attention; set model.max_length to {window}"
        )
    if layout is None:
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=grouped
        )
    elif layout.block_mask is not None:
        out = compiled_flex()(
            query, key, value, block_mask=layout.block_mask, scale=scale, enable_gqa=grouped
        )
    else:
        out = span_attention(query, key, value, layout.spans, scale)
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
