"""What a forward pass is made of: token trees with the rows they hold, shared out among workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psr_ray.training.examples import PreferenceExample, SFTExample
from psr_ray.training.trees import TokenTree, balance, fill, token_tree


@dataclass(frozen=True)
class Unit:
    """A token tree and the rows whose completions it holds, in the tree's order."""

    tree: TokenTree
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Pass:
    """The units of one forward pass. ``counts`` is false where a worker only keeps step with the
    others, whose forward passes are more."""

    units: tuple[Unit, ...]
    counts: bool = True

    @property
    def rows(self) -> list[int]:
        return [row for unit in self.units for row in unit.rows]


def sft_units(examples: Sequence[SFTExample], indices: Iterable[int]) -> list[Unit]:
    """A tree of one path for each row."""
    return [
        Unit(token_tree([(examples[i].prompt_ids, examples[i].completion_ids)]), (i,))
        for i in indices
    ]


def pair_tree(pairs: Iterable[PreferenceExample]) -> TokenTree:
    """The tree of some pairs of one search; each has two completions, chosen then rejected."""
    return token_tree(
        path
        for pair in pairs
        for path in ((pair.prompt_ids, pair.chosen_ids), (pair.prompt_ids, pair.rejected_ids))
    )


def pair_units(
    pairs: Sequence[PreferenceExample], indices: Iterable[int], budget: int
) -> list[Unit]:
    """A tree for each search. One larger than the budget is cut where a step ends; what comes after
    repeats the prefix. A pair is never cut, so that one larger by itself stays larger."""
    searches: dict[str, list[int]] = {}
    for index in indices:
        searches.setdefault(pairs[index].search, []).append(index)
    units = []
    for rows in searches.values():
        rows.sort(key=lambda i: len(pairs[i].prompt_ids))
        while rows:
            unit = largest_unit(pairs, rows, budget)
            units.append(unit)
            rows = rows[len(unit.rows) :]
    return units


def largest_unit(pairs: Sequence[PreferenceExample], rows: Sequence[int], budget: int) -> Unit:
    """The tree of as many of the rows, from the first, as the budget holds; at least of one."""
    tree = pair_tree(pairs[i] for i in rows)
    if len(tree) <= budget or len(rows) == 1:
        return Unit(tree, tuple(rows))
    fits, too_many = 1, len(rows)  # a tree only grows with its rows
    while too_many - fits > 1:
        num = (fits + too_many) // 2
        if len(pair_tree(pairs[i] for i in rows[:num])) <= budget:
            fits = num
        else:
            too_many = num
    return Unit(pair_tree(pairs[i] for i in rows[:fits]), tuple(rows[:fits]))


def passes_of(units: Sequence[Unit], rank: int, num_workers: int, budget: int) -> list[Pass]:
    """A worker's forward passes over some units. Units are shared out by their tokens; every worker
    makes as many passes as the one that needs most, for all of them communicate in each."""
    sizes = [len(unit.tree) for unit in units]
    shares = balance(sizes, num_workers)
    groups = [fill([sizes[i] for i in share], budget) for share in shares]
    mine = [Pass(tuple(units[shares[rank][i]] for i in group)) for group in groups[rank]]
    idle = max(map(len, groups)) - len(mine)
    smallest = min(units, key=lambda unit: len(unit.tree))
    return mine + [Pass((smallest,), counts=False)] * idle
