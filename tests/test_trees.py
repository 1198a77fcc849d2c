"""Token trees give each completion what a sequence of its own gives: layout, values, gradients."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pairs import VOCAB, search_pairs
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from psr_ray.errors import PsrError
from psr_ray.training import attention
from psr_ray.training.attention import QuerySpan, QuerySpans, dense_mask, register_attention
from psr_ray.training.logprobs import Head, PackScorer
from psr_ray.training.microbatches import PackedTree, pair_tree
from psr_ray.training.packs import pack_trees
from psr_ray.training.reference import check_packing
from psr_ray.training.trees import token_tree

ids = st.lists(st.integers(1, 3), min_size=1, max_size=6)
paths = st.lists(st.tuples(ids.map(lambda rest: [1, *rest]), ids), min_size=1, max_size=6)


def model(kind, **settings):
    torch.manual_seed(0)
    config, cls = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
    }[kind]
    sizes = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    return cls(config(**sizes | settings, attn_implementation=register_attention()))


def plain_logps(causal, paths):
    """Per-token log-probabilities of each completion, in a sequence of its own, by transformers."""
    rows = []
    for prompt, completion in paths:
        whole = torch.tensor([[*prompt, *completion]])
        logits = causal(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 : -1]
        rows.append(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0])
    return rows


@given(paths)
def test_a_tree_holds_its_paths_and_each_prefix_once(paths):
    tree = token_tree(paths)
    assert tree.paths() == [(list(p), list(c)) for p, c in paths]
    prefixes = {tuple([*p, *c][: n + 1]) for p, c in paths for n in range(len(p) + len(c))}
    assert len(tree) == len(prefixes)
    for node, parent in enumerate(tree.parents):
        assert tree.positions[node] == (0 if parent < 0 else tree.positions[parent] + 1)


@given(paths)
def test_ends_and_runs_say_who_is_an_ancestor(paths):
    tree = token_tree(paths)
    ancestors = []
    for node, parent in enumerate(tree.parents):
        ancestors.append({node} | (ancestors[parent] if parent >= 0 else set()))
        by_ends = {k for k in range(len(tree)) if k <= node < tree.ends[k]}
        assert by_ends == ancestors[node]
    seen = []
    for run in tree.runs:
        before = {k for a, b in run.before for k in range(a, b)}
        for node in range(run.start, run.stop):
            assert before | set(range(run.start, node + 1)) == ancestors[node]
            seen.append(node)
    assert seen == list(range(len(tree)))


def test_what_is_no_tree_is_refused():
    with pytest.raises(ValueError, match="different tokens"):
        token_tree([([1], [2]), ([3], [2])])
    with pytest.raises(ValueError, match="needs a prompt"):
        token_tree([([], [2])])
    with pytest.raises(ValueError, match="at least one"):
        token_tree([])


FORESTS = {
    "one tree": [4],
    "many trees": [4, 1, 3],
    "one pair": [1],
}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("name", FORESTS)
@pytest.mark.parametrize("dense_tokens", [0, 30, 10**6])
def test_log_probabilities_and_gradients_equal_those_of_sequences_alone(
    kind, name, dense_tokens, monkeypatch
):
    monkeypatch.setattr(attention, "DENSE_TOKENS", dense_tokens)
    rng = random.Random(name)
    searches = [search_pairs(num, rng, str(i)) for i, num in enumerate(FORESTS[name])]
    trees = [pair_tree(pairs) for pairs in searches]
    causal = model(kind)
    pack = pack_trees(trees)
    if name == "many trees" and dense_tokens == 30:  # both ways in one pack
        assert {len(tree) > 30 for tree in trees} == {False, True}
    assert_equal(causal, pack, [path for tree in trees for path in tree.paths()])


def test_the_mask_of_a_full_pack_agrees():
    rng = random.Random(1)
    trees = [pair_tree(search_pairs(num, rng, str(num))) for num in (3, 1)]
    pack = pack_trees(trees)
    size = len(pack.ids_S)  # as FlexAttention has it
    spans = QuerySpans((size,), (QuerySpan(size, (0,), dense_mask(pack.ends_S)),))
    paths = [path for tree in trees for path in tree.paths()]
    assert_equal(model("llama"), replace(pack, layout=replace(pack.layout, spans=spans)), paths)


def assert_equal(causal, pack, paths):
    packed = PackScorer(causal, chunk=7)(pack)
    alone = torch.stack([row.sum() for row in plain_logps(causal, paths)])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)
    weights = torch.linspace(-1, 1, len(alone)) + 0.1
    names = [name for name, _ in causal.named_parameters()]
    gradients = []
    for values in (packed, alone):
        causal.zero_grad()
        (values * weights).sum().backward()
        gradients.append([parameter.grad for parameter in causal.parameters()])
    for parameter, one, other in zip(names, *gradients, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()), msg=parameter
        )


def test_a_branch_is_predicted_by_its_parent_and_may_be_one_token():
    """Each token's log-probability, a rejected step of a single token among them."""
    causal = model("llama")
    paths = [
        ([5, 6, 7], [8, 9]),
        ([5, 6, 7], [4]),
        ([5, 6, 7, 8, 9], [3, 2]),
        ([5, 6, 7, 8, 9], [1]),
    ]
    tree = token_tree(paths)
    assert [len(run.before) for run in tree.runs] == [0, 1, 1]
    singles = [
        token_tree([([*prompt, *completion[:n]], [completion[n]])])
        for prompt, completion in paths
        for n in range(len(completion))
    ]
    assert_equal(causal, pack_trees([tree]), paths)
    each = PackScorer(causal)(pack_trees(singles))
    torch.testing.assert_close(each, torch.cat(plain_logps(causal, paths)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_logits_in_chunks_are_the_logits_at_once(bias):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, VOCAB, bias=bias)
    labels = torch.randint(VOCAB, (20,))

    def plainly(hidden, labels):
        return -torch.nn.functional.cross_entropy(head(hidden), labels, reduction="none")

    results = []
    for score in (plainly, Head(head, 20), Head(head, 6)):
        head.zero_grad()
        hidden = torch.arange(160.0).view(20, 8).sin().requires_grad_()
        logps = score(hidden, labels)
        logps.square().sum().backward()
        gradients = [p.grad.clone() for p in head.parameters()]
        results.append((logps, hidden.grad, *gradients))
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            torch.testing.assert_close(one, other)


def test_the_heads_gradient_in_bfloat16_is_rounded_once():
    """Summed over chunks in bfloat16 its relative error was 7e-3; that of one product is 2.4e-3."""
    torch.manual_seed(0)
    hidden, labels = torch.randn(1024, 32).bfloat16(), torch.randint(VOCAB, (1024,))
    weight = torch.randn(VOCAB, 32).bfloat16()
    exact = weight.double().requires_grad_()
    logits = hidden.double() @ exact.T
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    linear = torch.nn.Linear(32, VOCAB, bias=False, dtype=torch.bfloat16)
    linear.weight.data.copy_(weight)
    (-Head(linear, 64)(hidden, labels)).sum().backward()
    error = (linear.weight.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert error < 4e-3


def test_a_model_whose_attention_does_not_follow_the_tree_is_refused():
    pairs = search_pairs(2, random.Random(0))
    packed = [PackedTree(pair_tree(pairs), (0, 1)), PackedTree(pair_tree(pairs[:1]), (0,))]
    scorer = PackScorer(model("llama"))
    check_packing(scorer, packed, 1e-3, torch.device("cpu"))
    scorer.model.set_attn_implementation("sdpa")  # knows nothing of packs
    with pytest.raises(PsrError, match="does not go with token trees"):
        check_packing(scorer, packed, 1e-3, torch.device("cpu"))


def test_a_model_that_changes_its_logits_is_refused():
    pairs = search_pairs(1, random.Random(0))
    scorer = PackScorer(model("llama"))
    forward = scorer.model.forward

    def scaled(**arguments):
        out = forward(**arguments)
        out.logits = 3 * out.logits
        return out

    scorer.model.forward = scaled
    with pytest.raises(PsrError, match="straight from the output head"):
        check_packing(scorer, [PackedTree(pair_tree(pairs), (0,))], 1e-3, torch.device("cpu"))


def test_a_sliding_window_shorter_than_a_row_is_refused():
    causal = model("qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=0)
    short, long = (pair_tree(search_pairs(num, random.Random(0))) for num in (1, 4))
    PackScorer(causal)(pack_trees([short]))
    with pytest.raises(PsrError, match=r"set model\.max_length to 16"):
        PackScorer(causal)(pack_trees([long]))
