"""Micro-batches: token trees with the rows they hold, shared out among workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from psr_ray.training.examples import PreferenceExample, SFTExample
from psr_ray.training.trees import TokenTree, token_tree


@dataclass(frozen=True)
class PackedTree:
    """A token tree and the rows whose completions it holds, in the tree's order. ``unit`` completions
    are never parted: the two of a pair."""

    tree: TokenTree
    rows: tuple[int, ...]
    unit: int = 1


@dataclass(frozen=True)
class MicroBatch:
    """The trees of one forward and backward pass. A padding micro-batch has weight 0: it only makes
    every rank run as many collectives."""

    trees: tuple[PackedTree, ...]
    is_padding: bool = False

    @property
    def rows(self) -> list[int]:
        return [row for packed in self.trees for row in packed.rows]


def sft_trees(
    examples: Sequence[SFTExample], indices: Iterable[int], budget: int
) -> list[PackedTree]:
    """A tree for each row: one path, but for rows that teach several completions. One larger than the
    budget is divided by its paths, which then repeat their beginning."""
    return [PackedTree(tree, (i,)) for i in indices for tree in row_trees(examples[i], budget)]


def row_trees(example: SFTExample, budget: int) -> Iterator[TokenTree]:
    """The trees of a row, each of as many of its paths as the budget holds, at least of one."""
    paths = example.paths
    while paths:
        num = len(paths)
        while num > 1 and len(token_tree(paths[:num])) > budget:
            num -= 1
        yield token_tree(paths[:num])
        paths = paths[num:]


def pair_tree(pairs: Iterable[PreferenceExample]) -> TokenTree:
    """The tree of some pairs of one search; each has two completions, chosen then rejected."""
    return token_tree(
        path
        for pair in pairs
        for path in ((pair.prompt_ids, pair.chosen_ids), (pair.prompt_ids, pair.rejected_ids))
    )


def pair_trees(
    pairs: Sequence[PreferenceExample], indices: Iterable[int], budget: int
) -> list[PackedTree]:
    """A tree for each search. One larger than the budget is cut where a step ends; what comes after
    repeats the prefix. A pair is never cut, so that one larger by itself stays larger."""
    searches: dict[str, list[int]] = {}
    for index in indices:
        searches.setdefault(pairs[index].search, []).append(index)
    trees = []
    for rows in searches.values():
        rows.sort(key=lambda i: len(pairs[i].prompt_ids))
        while rows:
            packed = largest_tree(pairs, rows, budget)
            trees.append(packed)
            rows = rows[len(packed.rows) :]
    return trees


def largest_tree(
    pairs: Sequence[PreferenceExample], rows: Sequence[int], budget: int
) -> PackedTree:
    """The tree of as many of the rows, from the first, as the budget holds; at least of one."""
    tree = pair_tree(pairs[i] for i in rows)
    if len(tree) <= budget or len(rows) == 1:
        return PackedTree(tree, tuple(rows), unit=2)
    fits, too_many = 1, len(rows)  # a tree only grows with its rows
    while too_many - fits > 1:
        num = (fits + too_many) // 2
        if len(pair_tree(pairs[i] for i in rows[:num])) <= budget:
            fits = num
        else:
            too_many = num
    return PackedTree(pair_tree(pairs[i] for i in rows[:fits]), tuple(rows[:fits]), unit=2)


def one_each(trees: Sequence[PackedTree], num_workers: int) -> list[PackedTree]:
    """The trees, the largest ones parted until every worker has one, as far as that can be done."""
    if len(trees) >= num_workers:
        return list(trees)
    found, whole = sorted(trees, key=lambda packed: -len(packed.tree)), list[PackedTree]()
    while found and len(found) + len(whole) < num_workers:
        packed = found.pop(0)
        parts = halves(packed)
        if parts is None:
            whole.append(packed)
        else:
            found = sorted([*found, *parts], key=lambda packed: -len(packed.tree))
    return found + whole


def halves(packed: PackedTree) -> tuple[PackedTree, PackedTree] | None:
    """A tree parted by its completions, in order, into two whose larger one is as small as can be; both
    begin with what their completions share. None where there is nothing to part."""
    paths, unit = packed.tree.paths(), packed.unit
    num = len(paths) // unit
    if num < 2:
        return None

    def at(number: int) -> tuple[TokenTree, TokenTree]:
        return token_tree(paths[: number * unit]), token_tree(paths[number * unit :])

    fewer, more = 1, num - 1  # the first tree only grows with their number, the second one shrinks
    while fewer < more:
        middle = (fewer + more) // 2
        first, second = at(middle)
        fewer, more = (fewer, middle) if len(first) >= len(second) else (middle + 1, more)
    number = min((max(fewer - 1, 1), fewer), key=lambda number: max(map(len, at(number))))
    of_rows = len(packed.rows) > 1
    rows = packed.rows[:number] if of_rows else packed.rows
    others = packed.rows[number:] if of_rows else packed.rows
    first, second = at(number)
    return PackedTree(first, rows, unit), PackedTree(second, others, unit)


def microbatches_of(
    trees: Sequence[PackedTree], rank: int, num_workers: int, budget: int
) -> list[MicroBatch]:
    """A worker's micro-batches of some trees, which are shared out by their tokens; where there are
    fewer trees than workers, trees are parted. Every worker has as many micro-batches as the one that
    needs most, for all of them communicate in each."""
    trees = one_each(trees, num_workers)
    sizes = [len(packed.tree) for packed in trees]
    shares = balance(sizes, num_workers)
    groups = [fill([sizes[i] for i in share], budget) for share in shares]
    mine = [MicroBatch(tuple(trees[shares[rank][i]] for i in group)) for group in groups[rank]]
    idle = max(map(len, groups)) - len(mine)
    smallest = min(trees, key=lambda packed: len(packed.tree))
    return mine + [MicroBatch((smallest,), is_padding=True)] * idle


def fill(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of the sizes in as few groups as first-fit-decreasing finds, each within the budget."""
    groups: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        place = next((g for g, left in enumerate(room) if left >= sizes[index]), None)
        if place is None:
            groups.append([])
            room.append(budget)
            place = len(groups) - 1
        groups[place].append(index)
        room[place] -= sizes[index]
    return groups


def balance(sizes: Sequence[int], num_workers: int) -> list[list[int]]:
    """Indices of the sizes for each worker: the largest goes first to the worker with the least."""
    shares: list[list[int]] = [[] for _ in range(num_workers)]
    load = [0] * num_workers
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        worker = load.index(min(load))
        shares[worker].append(index)
        load[worker] += sizes[index]
    return shares
