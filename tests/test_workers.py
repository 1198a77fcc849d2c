"""DeepSpeed under Ray Train with real gloo workers: however a batch is split, the weights agree."""

import json
import math
import os
import signal
import threading
import time

import psutil
import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM

from psr_ray.config.file import load_config
from psr_ray.errors import PsrError
from psr_ray.preferences import PREFERENCE_SCHEMA, SOLUTION_SCHEMA
from psr_ray.prompts import PromptBuilder, load_tokenizer
from psr_ray.rows import TASK_SCHEMA, pair_row, problem_row
from psr_ray.seed.arithmetic import ift_problems, judged_pairs
from psr_ray.shards import write_rows, write_shard

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def preferences(tmp_path_factory):
    """24 pairs from 12 searches, and 24 solutions, of the embedded problems."""
    folder = tmp_path_factory.mktemp("preferences")
    config = load_config(ROOT / "configs" / "smoke.yaml")
    prompts = PromptBuilder(load_tokenizer(config.model.base), config.prompts)
    ids = prompts.tokenizer.encode
    pairs, solutions = [], []
    for i, problem in enumerate(ift_problems(24, seed=5)):
        prompt = list(prompts.solve_ids(problem.text))
        completion = [*ids(problem.solution), 0]
        solutions.append({"id": str(i), "prompt_ids": prompt, "completion_ids": completion})
        for number, step in enumerate(problem.solution.splitlines()[:2] if i < 12 else ()):
            chosen = ids(step + "\n")
            row = {
                "id": f"{i}#{number}",
                "problem_id": str(i),
                "prompt_ids": prompt,
                "chosen_ids": chosen,
                "rejected_ids": ids(step[:-1] + "0\n"),
            }
            pairs.append(dict.fromkeys(PREFERENCE_SCHEMA.names) | row)
            prompt = prompt + chosen
    write_shard(folder / "pairs", pairs, PREFERENCE_SCHEMA)
    write_shard(folder / "solutions", solutions, SOLUTION_SCHEMA)
    write_rows(
        folder / "ift.parquet",
        [problem_row("solve", p) for p in ift_problems(24, seed=1)],
        TASK_SCHEMA,
    )
    write_rows(
        folder / "eft.parquet", [pair_row(p) for p in judged_pairs("eft", 24, seed=1)], TASK_SCHEMA
    )
    return folder


def train(folder, out, kind, *overrides):
    """Train under Ray Train and return weights and the metrics of each step."""
    from actors.trainer import run_training
    from psr_ray.training.worker import TrainingJob

    config = load_config(
        ROOT / "configs" / "smoke.yaml",
        (
            "dpo.batch_size=8",
            "dpo.num_epochs=1",
            "sft.batch_size=8",
            "sft.num_epochs=0.5",
            *overrides,
        ),
    )
    out.mkdir(exist_ok=True)
    run_training(
        TrainingJob(
            kind=kind,
            config=config,
            model=config.model.base,
            stage=kind,
            run_dir=out,
            out=out,
            data=folder,
            preferences=folder if kind == "dpo" else None,
        )
    )
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return model, [json.loads(line) for line in lines]


def difference(a, b):
    """Length of the difference of all weights. (Not its largest entry: Adam moves a weight whose
    gradient is next to nothing by its rounding errors.)"""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return sum((x - y).square().sum().item() for x, y in pairs) ** 0.5


SPLITS = [
    ("num_workers=1", "tokens_per_pass=512", "zero_stage=0"),
    ("num_workers=2", "tokens_per_pass=4096", "zero_stage=0"),
    ("num_workers=2", "tokens_per_pass=512", "zero_stage=1"),
    ("num_workers=2", "tokens_per_pass=512", "zero_stage=2"),
    ("num_workers=2", "tokens_per_pass=700", "zero_stage=3"),
]


def test_any_split_of_a_dpo_batch_gives_the_same_weights(ray_up, preferences, tmp_path):
    def settings(split):
        return [f"dpo.{s}" for s in split] + ["dpo.solutions_per_batch=4", "dpo.schedule=constant"]

    whole = settings(("num_workers=1", "tokens_per_pass=8192", "zero_stage=0"))
    reference, steps = train(preferences, tmp_path / "whole", "dpo", *whole)
    start = AutoModelForCausalLM.from_pretrained(ROOT / "models" / "tiny-m0")
    assert steps[0]["dpo_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert len(steps) == 3
    moved = difference(start, reference)
    assert moved > 1e-4
    for i, split in enumerate(SPLITS):
        model, other = train(preferences, tmp_path / str(i), "dpo", *settings(split))
        assert difference(reference, model) < 0.02 * moved, split
        for name in ("dpo_loss", "nll", "sft_loss", "chosen_logp", "grad_norm"):
            expected = [step[name] for step in steps]
            assert [step[name] for step in other] == pytest.approx(expected, rel=2e-3), (
                split,
                name,
            )


def test_two_workers_fine_tune_as_one_does(ray_up, preferences, tmp_path):
    one, steps = train(
        preferences, tmp_path / "one", "sft", "sft.num_workers=1", "sft.tokens_per_pass=8192"
    )
    two, other = train(preferences, tmp_path / "two", "sft", "sft.tokens_per_pass=512")
    assert [s["sft_loss"] for s in other] == pytest.approx([s["sft_loss"] for s in steps], rel=1e-3)
    start = AutoModelForCausalLM.from_pretrained(ROOT / "models" / "tiny-m0")
    assert difference(one, two) < 0.02 * difference(start, one)


@pytest.mark.parametrize("zero", [0, 3])
def test_a_lora_update_is_merged_into_a_plain_folder(ray_up, preferences, tmp_path, zero):
    model, steps = train(
        preferences, tmp_path / "lora", "dpo", "dpo.lora={rank: 4}", f"dpo.zero_stage={zero}",
        "dpo.lr=0.01",
    )  # fmt: skip
    assert steps[0]["dpo_loss"] == pytest.approx(math.log(2), abs=1e-4)
    start = AutoModelForCausalLM.from_pretrained(ROOT / "models" / "tiny-m0")
    assert model.state_dict().keys() == start.state_dict().keys()
    assert difference(start, model) > 1e-4
    assert torch.equal(start.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_no_pairs_is_one_line_that_says_where(ray_up, preferences, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PsrError, match="no step preferences in"):
        train(tmp_path / "empty", tmp_path / "out", "dpo")


class Killer(threading.Thread):
    """Kills a training worker once a folder holds a checkpoint; ``step`` is that one's."""

    def __init__(self, out):
        super().__init__(daemon=True)
        self.out, self.step = out, None

    def run(self):
        latest = self.out / "checkpoints" / "latest.json"
        while not latest.exists():
            time.sleep(0.01)
        self.step = json.loads(latest.read_text())["step"]
        ours = psutil.Process().children(recursive=True)  # this Ray's, nobody else's
        workers = [p for p in ours if "RayTrainWorker" in " ".join(p.cmdline())]
        os.kill(workers[-1].pid, signal.SIGKILL)
        self.killed_at = time.time()


@pytest.mark.faults
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_steps_with_a_kill_are_the_steps_without(ray_up, preferences, tmp_path, zero, record):
    settings = [
        "dpo.num_workers=2", f"dpo.zero_stage={zero}", "dpo.checkpoint_steps=3", "dpo.num_epochs=4",
        "dpo.batch_size=4", "dpo.solutions_per_batch=4",
    ]  # fmt: skip
    whole, steps = train(preferences, tmp_path / "whole", "dpo", *settings)
    killer = Killer(tmp_path / "killed")
    killer.start()
    model, others = train(preferences, tmp_path / "killed", "dpo", *settings)
    assert killer.step is not None
    assert killer.step < len(steps)
    expected = list(range(1, len(steps) + 1))
    assert [s["step"] for s in steps] == expected
    fault = f"training worker killed, ZeRO {zero}, 2 workers"
    record(fault, 1, expected, [s["step"] for s in others], time.time() - killer.killed_at)
    for a, b in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_training_that_ended_before_its_manifest_is_done_again_from_its_checkpoint(
    ray_up, preferences, tmp_path
):
    settings = ("sft.num_workers=1", "sft.checkpoint_steps=2", "sft.num_epochs=2")
    out = tmp_path / "out"
    first, steps = train(preferences, out, "sft", *settings)
    model_file = out / "model" / "model.safetensors"
    before = model_file.stat().st_mtime_ns
    again, others = train(preferences, out, "sft", *settings)
    assert model_file.stat().st_mtime_ns > before
    assert (
        [s["step"] for s in others] == [s["step"] for s in steps] == list(range(1, len(steps) + 1))
    )
    rates = [[step["tokens_per_s"] for step in run] for run in (steps, others)]
    changed = [a != b for a, b in zip(*rates, strict=True)]
    kept = json.loads((out / "checkpoints" / "latest.json").read_text())["step"]
    assert 0 < kept < len(steps)
    assert changed == [number > kept for number in range(1, len(steps) + 1)]
    assert difference(first, again) < 1e-6


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(ray_up, preferences, tmp_path):
    with pytest.raises(PsrError, match=r"is not finite.*bad-batch.json"):
        train(preferences, tmp_path / "bad", "sft", "sft.num_workers=1", "sft.lr=1e30")
    kept = json.loads((tmp_path / "bad" / "bad-batch.json").read_text())
    assert len(kept["rows"]) == 8
    assert {"id", "prompt_ids", "completion_ids"} <= kept["rows"][0].keys()
    assert not (tmp_path / "bad" / "model").exists()
