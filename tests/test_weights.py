"""Weights loaded in place: the real engine's answers after it, and how stale ones are told."""

import json
import subprocess
import sys
from itertools import product

import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from psr_ray.inference.weights import Proof, doubt, misfit, shape_of

PROOF = Proof([[1], [1]], [[2, 3], [4]], [-2.0, -1.0])


@pytest.mark.parametrize(
    ("answers", "before", "dtype", "said"),
    [
        ([-2.0, -1.0], None, "float32", None),
        ([-2.0004, -1.0], [-3.0, -1.0], "float32", None),
        ([-2.1, -1.0], None, "float32", "differ from the trainer's by 0.035"),
        ([-2.0001, -1.0], [-2.0001, -1.0], "float32", "have not changed"),
        ([-2.0004, -1.0], [-2.0003, -1.0], "float32", "moved from 0.00011 to 0.00014"),
        ([-2.1, -1.0], [-2.3, -1.0], "bfloat16", None),
        ([-2.1, -1.0], [-2.12, -1.0], "bfloat16", "moved from 0.042 to 0.035"),
        ([-2.02, -1.0], [-2.01, -1.0], "bfloat16", None),  # rounding alone
        ([float("nan"), -1.0], None, "bfloat16", "by nan"),
    ],
)
def test_answers_that_are_not_the_new_weights_are_doubted(answers, before, dtype, said):
    found = doubt(PROOF, answers, before, dtype)
    assert found is None if said is None else said in found, found


def test_weights_of_another_shape_do_not_fit_and_of_another_number_type_do(tmp_path):
    def config(name, **values):
        (tmp_path / name).mkdir()
        found = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "dtype": "float32"}
        (tmp_path / name / "config.json").write_text(json.dumps(found | values))
        return str(tmp_path / name)

    held = shape_of(config("held"))
    assert misfit(held, shape_of(config("other type", dtype="bfloat16"))) is None
    said = config("said", tie_word_embeddings=False)  # a default, written out
    assert misfit(held, shape_of(said)) is None
    wider = shape_of(config("wider", hidden_size=128))
    assert misfit(held, wider) == "its hidden_size is 128, the engine's 64"
    other = shape_of(config("other", architectures=["Qwen2ForCausalLM"]))
    assert "architectures" in misfit(held, other)


SCRIPT = """
import json, sys
from psr_ray.config.file import load_config
from psr_ray.inference.engine import VllmEngine
from psr_ray.inference.weights import Proof
from psr_ray.method.generation import GenerationRequest

first, second, dtype, proofs = sys.argv[1:]
config = load_config("configs/smoke.yaml", [f"model.dtype={dtype}", "model.max_length=128"])
proof = Proof(**json.loads(proofs))

def ask():
    request = GenerationRequest(tuple(proof.prompt_ids[0]), 1, 0.0, 1.0, 8)
    [[found]] = yield [request]
    return found.token_ids

def look(engine):
    [tokens] = engine.run([ask()])
    return engine.models.answers(proof), tokens

engine = VllmEngine(first, config.model, config.engine, 0)
looks = [look(engine)]
for folder in (second, first, second):
    engine.models.load(folder)
    looks.append(look(engine))
print("RESULT" + json.dumps(looks))
engine.close()
"""


def random_model(folder, kind, tied, dtype, seed, tokenizer):
    """A model whose answers have nothing to do with those of another seed."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        kind(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0).add_(0.1 * torch.randn_like(parameter))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def wanted(folder, proof):
    """Log-probabilities by transformers, in 32 bits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for prompt, completion in zip(proof.prompt_ids, proof.completion_ids, strict=True):
        with torch.no_grad():
            logps = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
        found.append(
            sum(float(logps[at, token]) for at, token in zip(places, completion, strict=True))
        )
    return found


# Of the eight kinds of weights three are tried in each test run, the others in `make faults`.
OFTEN = {
    (LlamaConfig, True, "float32"),
    (Qwen2Config, True, "bfloat16"),
    (LlamaConfig, False, "bfloat16"),
}
SELDOM = (pytest.mark.faults, pytest.mark.long)
KINDS = [
    pytest.param(*kind, marks=() if kind in OFTEN else SELDOM)
    for kind in product((LlamaConfig, Qwen2Config), (True, False), ("float32", "bfloat16"))
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tied", "dtype"), KINDS)
def test_an_engine_answers_by_the_weights_it_loaded_in_place(tmp_path, kind, tied, dtype):
    from conftest import TINY

    from psr_ray.method.prompts import load_tokenizer

    folders = [str(tmp_path / name) for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        random_model(folder, kind, tied, dtype, seed, load_tokenizer(str(TINY)))
    questions = Proof([[5, 9, 11, 30], [7, 8]], [[12, 40, 3], [21, 22, 23, 24]], [])
    told = [wanted(folder, questions) for folder in folders]
    proofs = [Proof(questions.prompt_ids, questions.completion_ids, answers) for answers in told]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *folders, dtype, json.dumps(vars(proofs[0]))],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=300,
    )  # fmt: skip
    assert "RESULT" in done.stdout, (done.returncode, done.stderr[-3000:])
    looks = json.loads(done.stdout.split("RESULT")[1])
    order = [0, 1, 0, 1]
    for (answers, _), place in zip(looks, order, strict=True):
        assert doubt(proofs[place], answers, None, dtype) is None
        other = doubt(proofs[1 - place], answers, None, dtype)
        assert other is not None
        assert "differ from the trainer's" in other
    # what is generated is what a fresh engine generates, each time
    assert looks[0][1] == looks[2][1] != looks[1][1] == looks[3][1]
