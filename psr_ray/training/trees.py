"""Token trees: completions that share prefixes, laid out so that each token is computed once.

The step preferences of one search share the problem and the chosen steps:

    problem ─ chosen 1 ─ chosen 2 ─ chosen 3      trunk
            └ rejected 1  └ rejected 2  └ rejected 3   branches

A tree is flattened depth first, first child first. Positions count along the path from the root; a
token attends to its ancestors and itself. Nothing else is needed to give each completion the same
log-probabilities as in a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Ids = Sequence[int]


@dataclass(frozen=True)
class Run:
    """Tokens ``start`` to ``stop`` of a tree, each the parent of the next.

    ``before`` are the (start, stop) ranges of the first token's ancestors, root first.
    """

    start: int
    stop: int
    before: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TokenTree:
    """A flattened tree of N tokens.

    ``parents[n]`` is the index of the token before n on its path (-1 at the root), ``positions[n]``
    the length of that path, ``ends[n]`` the index behind n's last descendant: q attends to k where
    k <= q < ends[k]. ``completions`` are the token indices of each scored completion, in the order in
    which they were given; none of them is the root, so the token before it always predicts it.
    """

    token_ids: tuple[int, ...]
    parents: tuple[int, ...]
    positions: tuple[int, ...]
    ends: tuple[int, ...]
    runs: tuple[Run, ...]
    completions: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.token_ids)

    def paths(self) -> list[tuple[list[int], list[int]]]:
        """The (prompt, completion) of each completion, as ids: what the tree was made from."""
        found = []
        for completion in self.completions:
            prompt, node = [], self.parents[completion[0]]
            while node >= 0:
                prompt.append(self.token_ids[node])
                node = self.parents[node]
            found.append((prompt[::-1], [self.token_ids[node] for node in completion]))
        return found


def token_tree(paths: Iterable[tuple[Ids, Ids]]) -> TokenTree:
    """The tree of (prompt, completion) paths from one root; equal prefixes are merged.

    Raises ``ValueError`` where a prompt or completion is empty, or a prompt starts with another token
    than the first one.
    """
    ids: list[int] = []
    parents: list[int] = []
    children: list[dict[int, int]] = []
    completions: list[list[int]] = []
    for prompt, completion in paths:
        if not prompt or not completion:
            raise ValueError("a path of a token tree needs a prompt and a completion")
        if ids and ids[0] != prompt[0]:
            raise ValueError(f"paths start with different tokens, {ids[0]} and {prompt[0]}")
        node, nodes = -1, []
        for token in (*prompt, *completion):
            known = children[node].get(token) if node >= 0 else (0 if ids else None)
            if known is None:
                known = len(ids)
                ids.append(token)
                parents.append(node)
                children.append({})
                if node >= 0:
                    children[node][token] = known
            node = known
            nodes.append(node)
        completions.append(nodes[len(prompt) :])
    if not ids:
        raise ValueError("a token tree needs at least one path")
    return flatten(ids, parents, children, completions)


def flatten(
    ids: list[int],
    parents: list[int],
    children: list[dict[int, int]],
    completions: list[list[int]],
) -> TokenTree:
    """The tree's nodes, numbered as they came, depth first."""
    order: list[int] = []
    waiting = [0]
    while waiting:
        node = waiting.pop()
        order.append(node)
        waiting.extend(reversed(children[node].values()))
    place = [0] * len(order)
    for index, node in enumerate(order):
        place[node] = index
    above = [-1 if parents[node] < 0 else place[parents[node]] for node in order]
    positions, ends = [0] * len(order), [0] * len(order)
    for index, parent in enumerate(above):
        positions[index] = 0 if parent < 0 else positions[parent] + 1
    for index in range(len(order) - 1, -1, -1):
        ends[index] = max(ends[index], index + 1)
        if above[index] >= 0:
            ends[above[index]] = max(ends[above[index]], ends[index])
    return TokenTree(
        tuple(ids[node] for node in order),
        tuple(above),
        tuple(positions),
        tuple(ends),
        tuple(runs_of(above)),
        tuple(tuple(place[node] for node in nodes) for nodes in completions),
    )


def runs_of(parents: Sequence[int]) -> Iterator[Run]:
    """The runs of a flattened tree, in order."""
    starts = [index for index, parent in enumerate(parents) if parent != index - 1 or index == 0]
    run_of: dict[int, Run] = {}
    run = Run(0, 0, ())
    for start, stop in zip(starts, [*starts[1:], len(parents)], strict=True):
        parent = parents[start]
        before: tuple[tuple[int, int], ...] = ()
        if parent >= 0:
            above = run_of[parent]
            before = (*above.before, (above.start, parent + 1))
        run = Run(start, stop, before)
        run_of.update(dict.fromkeys(range(start, stop), run))
        yield run
