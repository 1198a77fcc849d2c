"""Packs: token trees side by side in one sequence, as tensors.

Shape key: S tokens of a pack, N scored tokens, C completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from psr_ray.training.attention import AttentionLayout, block_mask, spans_of
from psr_ray.training.trees import TokenTree

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pack:
    """Trees side by side, as tensors; ``layout`` tells which tokens see which.

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
    layout: AttentionLayout


def pack_trees(trees: Sequence[TokenTree], device: torch.device = CPU) -> Pack:
    """Lay trees side by side on a device. Their completions are numbered through, tree by tree. On a GPU
    the pack has FlexAttention's block mask, elsewhere spans."""
    ids: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    parents: list[int] = []
    owners: list[tuple[int, int]] = []
    lengths: list[int] = []
    for tree in trees:
        offset = len(ids)
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
        layout=AttentionLayout(
            longest=max(positions) + 1,
            spans=spans_of(trees if device.type == "cpu" else ()),
            block_mask=None if device.type == "cpu" else block_mask(ends_S),
        ),
    )
