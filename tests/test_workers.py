"""DeepSpeed under Ray Train with real gloo workers: however a batch is split, the weights agree."""

import json
import math

import pytest
import torch
from conftest import TINY
from trainings import difference, train
from transformers import AutoModelForCausalLM

from psr_ray.errors import PsrError

pytestmark = pytest.mark.slow


LONG = [pytest.mark.faults, pytest.mark.long]
SPLITS = [
    ("num_workers=1", "tokens_per_pass=160", "zero_stage=0"),  # many passes
    pytest.param(("num_workers=2", "tokens_per_pass=512", "zero_stage=0"), marks=LONG),
    # stages 1 and 2: test_training_nodes.py
    ("num_workers=2", "tokens_per_pass=700", "zero_stage=3"),
]


def settings(split):
    small = ["model.max_length=160"] if "tokens_per_pass=160" in split else []
    rows = ["dpo.solutions_per_batch=4", "dpo.schedule=constant"]
    return [f"dpo.{s}" for s in split] + rows + small


@pytest.fixture(scope="module")
def unsplit(ray_up, preferences, tmp_path_factory):
    """The weights and the steps of a training whose batches are one pass each."""
    whole = settings(("num_workers=1", "tokens_per_pass=8192", "zero_stage=0"))
    return train(preferences, tmp_path_factory.mktemp("unsplit"), "dpo", *whole)


@pytest.mark.parametrize("split", SPLITS)
def test_any_split_of_a_dpo_batch_gives_the_same_weights(unsplit, preferences, tmp_path, split):
    reference, steps = unsplit
    start = AutoModelForCausalLM.from_pretrained(TINY)
    assert steps[0]["dpo_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert [step["num_passes"] for step in steps] == [2, 2, 2]
    moved = difference(start, reference)
    assert moved > 1e-4
    model, other = train(preferences, tmp_path, "dpo", *settings(split))
    assert difference(reference, model) < 0.02 * moved
    for name in ("dpo_loss", "nll", "sft_loss", "chosen_logp", "grad_norm"):
        expected = [step[name] for step in steps]
        assert [step[name] for step in other] == pytest.approx(expected, rel=2e-3), name
    idle, passes = (
        sum(step[f"num_{kind}"] for step in other) for kind in ("padding_passes", "passes")
    )
    said = json.loads((tmp_path / "training.json").read_text())["padding_share"]
    assert said == pytest.approx(idle / passes)


@pytest.mark.faults
@pytest.mark.long
def test_two_workers_fine_tune_as_one_does(ray_up, preferences, tmp_path):
    one, steps = train(
        preferences, tmp_path / "one", "sft", "sft.num_workers=1", "sft.tokens_per_pass=8192"
    )
    two, other = train(preferences, tmp_path / "two", "sft", "sft.tokens_per_pass=512")
    assert [s["sft_loss"] for s in other] == pytest.approx([s["sft_loss"] for s in steps], rel=1e-3)
    start = AutoModelForCausalLM.from_pretrained(TINY)
    assert difference(one, two) < 0.02 * difference(start, one)


LORA = "dpo.lora={rank: 4}"
FOUR_BITS = "dpo.lora={rank: 4, four_bit: true}"


@pytest.mark.parametrize(
    ("zero", "lora"),
    [
        pytest.param(0, LORA, marks=LONG),
        (3, LORA),
        pytest.param(2, FOUR_BITS, marks=LONG),
    ],
)
def test_a_lora_update_is_merged_into_a_plain_folder(ray_up, preferences, tmp_path, zero, lora):
    settings = (lora, f"dpo.zero_stage={zero}", "dpo.lr=0.01", "dpo.checkpoint_steps=2")
    model, steps = train(preferences, tmp_path / "lora", "dpo", *settings)
    assert steps[0]["dpo_loss"] == pytest.approx(math.log(2), abs=1e-4)
    start = AutoModelForCausalLM.from_pretrained(TINY)
    assert model.state_dict().keys() == start.state_dict().keys()
    assert difference(start, model) > 1e-4
    assert torch.equal(start.model.embed_tokens.weight, model.model.embed_tokens.weight)
    states = list((tmp_path / "lora" / "checkpoints").rglob("*model_states.pt"))
    assert sum(p.stat().st_size for p in states) < 0.5 * 4 * start.num_parameters()
    again, _ = train(preferences, tmp_path / "lora", "dpo", *settings)  # from its last checkpoint
    assert difference(model, again) < 1e-6


@pytest.mark.faults
@pytest.mark.long
def test_states_in_the_nodes_memory_give_the_same_weights(ray_up, preferences, tmp_path):
    """Where a process that was compiling the optimizer had been killed."""
    from psr_ray.training.deepspeed_internals import build_folder

    build_folder().mkdir(parents=True, exist_ok=True)
    (build_folder() / "lock").touch()
    offload = ("dpo.offload_optimizer=true", "dpo.offload_parameters=true")
    settings = ("dpo.zero_stage=3", "dpo.schedule=constant")
    start = AutoModelForCausalLM.from_pretrained(TINY)
    reference, steps = train(preferences, tmp_path / "reference", "dpo", *settings)
    model, other = train(preferences, tmp_path / "offload", "dpo", *settings, *offload)
    assert other[0]["dpo_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert len(other) == len(steps)
    assert difference(reference, model) < 0.02 * difference(start, reference)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(ray_up, preferences, tmp_path):
    with pytest.raises(PsrError, match=r"is not finite.*bad-batch.json"):
        train(preferences, tmp_path / "bad", "sft", "sft.num_workers=1", "sft.lr=1e30")
    kept = json.loads((tmp_path / "bad" / "bad-batch.json").read_text())
    assert len(kept["rows"]) == 8
    assert {"id", "prompt_ids", "completion_ids"} <= kept["rows"][0].keys()
    assert not (tmp_path / "bad" / "model").exists()
