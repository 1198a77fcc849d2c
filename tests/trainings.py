"""Small trainings under Ray Train, and the rows they are made of."""

import json

from conftest import ROOT
from transformers import AutoModelForCausalLM

from psr_ray.config.file import load_config
from psr_ray.data.rows import TASK_SCHEMA, pair_row, problem_row
from psr_ray.embedded.seed import ift_problems, judged_pairs
from psr_ray.method.preferences import CHOSEN_STEPS_SCHEMA, PREFERENCE_SCHEMA
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.storage.shards import write_rows, write_shard


def write_preferences(folder):
    """24 pairs from 12 searches, and 24 solutions, of the embedded problems."""
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
    write_shard(folder / "solutions", solutions, CHOSEN_STEPS_SCHEMA)
    write_rows(
        folder / "ift.parquet",
        [problem_row("solve", p) for p in ift_problems(24, seed=1)],
        TASK_SCHEMA,
    )
    write_rows(
        folder / "eft.parquet", [pair_row(p) for p in judged_pairs("eft", 24, seed=1)], TASK_SCHEMA
    )


def train(folder, out, kind, *overrides, group=None):
    """Train under Ray Train and return weights and the metrics of each step."""
    from actors.trainer import run_training
    from psr_ray.training.job import TrainingJob

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
        ),
        group,
    )
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return model, [json.loads(line) for line in lines]


def difference(a, b):
    """Length of the difference of all weights. (Not its largest entry: Adam moves a weight whose
    gradient is next to nothing by its rounding errors.)"""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return sum((x - y).square().sum().item() for x, y in pairs) ** 0.5
