"""Pairs to training units: filled, balanced, batched, cut at the budget; the reference store."""

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import search_pairs

from psr_ray.errors import PsrError
from psr_ray.training.examples import batches_by_search
from psr_ray.training.microbatches import (
    PackedTree,
    balance,
    fill,
    halves,
    microbatches_of,
    pair_tree,
    pair_trees,
)
from psr_ray.training.reference import read_reference, reference_key, write_reference
from psr_ray.training.trees import token_tree


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 4))
def test_filling_and_balancing_lose_nothing(sizes, workers):
    groups = fill(sizes, 50)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in group) <= 50 for group in groups)
    shares = balance(sizes, workers)
    loads = [sum(sizes[i] for i in share) for share in shares]
    assert sorted(i for share in shares for i in share) == list(range(len(sizes)))
    assert max(loads) - min(loads) <= max(sizes)


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(20, 80), st.integers(1, 3))
def test_a_tree_over_the_budget_is_cut_between_pairs(num_steps, budget, workers):
    pairs = search_pairs(num_steps, random.Random(num_steps)) + search_pairs(
        2, random.Random(9), "t"
    )
    units = pair_trees(pairs, range(len(pairs)), budget)
    assert sorted(row for unit in units for row in unit.rows) == list(range(len(pairs)))
    for unit in units:
        assert len(unit.tree) <= budget or len(unit.rows) == 1
        expected = [
            (list(pairs[row].prompt_ids), list(ids))
            for row in unit.rows
            for ids in (pairs[row].chosen_ids, pairs[row].rejected_ids)
        ]
        assert unit.tree.paths() == expected
    passes = [microbatches_of(units, rank, workers, budget) for rank in range(workers)]
    assert len({len(part) for part in passes}) == 1
    rows = [row for parts in passes for part in parts if not part.is_padding for row in part.rows]
    assert sorted(rows) == list(range(len(pairs)))


@settings(max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 16))
def test_trees_are_parted_until_every_worker_has_one(lengths, workers):
    rng = random.Random(0)
    pairs = [pair for i, num in enumerate(lengths) for pair in search_pairs(num, rng, str(i))]
    units = pair_trees(pairs, range(len(pairs)), 10_000)
    passes = [microbatches_of(units, rank, workers, 10_000) for rank in range(workers)]
    trees = [each for parts in passes for p in parts if not p.is_padding for each in p.trees]
    assert sorted(row for each in trees for row in each.rows) == list(range(len(pairs)))
    for each in trees:
        expected = [
            (list(pairs[row].prompt_ids), list(ids))
            for row in each.rows
            for ids in (pairs[row].chosen_ids, pairs[row].rejected_ids)
        ]
        assert each.tree.paths() == expected
    working = sum(any(not part.is_padding for part in parts) for parts in passes)
    assert working == min(workers, len(pairs))
    if workers <= len(lengths):
        assert len(trees) == len(units)


def test_a_tree_is_parted_where_its_larger_half_is_smallest_and_of_one_row_by_its_paths():
    [whole] = pair_trees(pairs := search_pairs(6, random.Random(1)), range(6), 10_000)
    sizes = [
        max(len(pair_tree(pairs[:number])), len(pair_tree(pairs[number:])))
        for number in range(1, 6)
    ]
    first, second = halves(whole)
    assert max(len(first.tree), len(second.tree)) == min(sizes)
    assert halves(PackedTree(pair_tree(pairs[:1]), (0,), unit=2)) is None
    row = PackedTree(token_tree([([1, 2], [3]), ([1, 2], [4]), ([1, 5], [6])]), (7,))
    assert [(part.rows, len(part.tree.completions)) for part in halves(row)] == [
        ((7,), 2),
        ((7,), 1),
    ]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(1, 6), st.integers(0, 3))
def test_batches_keep_searches_together_and_see_each_pair_once(lengths, size, seed):
    rng = random.Random(0)
    pairs = [pair for i, num in enumerate(lengths) for pair in search_pairs(num, rng, str(i))]
    rng.shuffle(pairs)
    plan = batches_by_search(pairs, 1, size, seed)
    seen = [i for batch in plan for i in batch]
    assert all(len(batch) <= size for batch in plan)
    assert sorted(seen) == list(range(len(pairs)))
    names = [pairs[i].search for i in seen]
    changes = sum(a != b for a, b in itertools.pairwise(names))
    assert changes == len(set(names)) - 1
    steps = [(pairs[i].search, len(pairs[i].prompt_ids)) for i in seen]
    assert all(a[0] != b[0] or a[1] < b[1] for a, b in itertools.pairwise(steps))


def test_a_reference_store_in_doubt_is_an_error(tmp_path):
    pairs = search_pairs(3, random.Random(0))
    key = reference_key("model", "float32", pairs)
    assert read_reference(tmp_path, key, pairs) is None
    table = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]], dtype=torch.float64)
    path = write_reference(tmp_path, key, pairs, table)
    torch.testing.assert_close(read_reference(tmp_path, key, pairs), table)

    assert reference_key("other", "float32", pairs) != key
    assert reference_key("model", "float32", pairs[:2]) != key
    with pytest.raises(PsrError, match="other pairs"):
        read_reference(tmp_path, key, pairs[:2])
    table[1, 2] = float("nan")
    write_reference(tmp_path, key, pairs, table)
    with pytest.raises(PsrError, match="missing values"):
        read_reference(tmp_path, key, pairs)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PsrError, match="cannot be read"):
        read_reference(tmp_path, key, pairs)
