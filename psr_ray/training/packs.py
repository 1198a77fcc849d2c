"""Packs: token trees side by side in one sequence, and the log-probabilities of their completions.

Shape key: S tokens of a pack, N scored tokens, C completions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from psr_ray.errors import PsrError
from psr_ray.training.attention import Spans, block_mask, spans_of
from psr_ray.training.head import CHUNK, Head
from psr_ray.training.trees import TokenTree

CPU = torch.device("cpu")


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
    spans: Spans
    block_mask: Any = None


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
        longest=max(positions) + 1,
        spans=spans_of(trees if device.type == "cpu" else ()),
        block_mask=None if device.type == "cpu" else block_mask(ends_S),
    )


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
