"""A run folder whose stages are complete, without an engine: real problems, pairs and models, searches
and figures that are made up. For what comes after a run: reports, cards, exports."""

import json
import math
import shutil

from conftest import ROOT

from psr_ray.config.file import load_config
from psr_ray.data.stage import write_data
from psr_ray.embedded.seed import ift_problems
from psr_ray.inference.search_rows import SEARCH_SCHEMA
from psr_ray.measures.evaluation import judge_figures
from psr_ray.measures.searches import figures_of
from psr_ray.measures.solutions import solution_figures
from psr_ray.method.preferences import PAIRS, PREFERENCE_SCHEMA, preferences_of
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.method.verdicts import Comparison, Verdict, both_orders, scores
from psr_ray.runs import RunDirectory
from psr_ray.stages import planned_stages
from psr_ray.storage.locations import local_copy
from psr_ray.storage.shards import write_shard

BENCHMARK = ROOT / "tests" / "data" / "formats" / "gsm8k_test.jsonl"


def solution(i, correct, **other):
    return {
        "id": str(i), "problem": "p", "answer": "1", "text": "Step 1: x", "predicted": "1",
        "correct": correct, "finish": "eos", "num_steps": 2, "num_tokens": 20, "error": None,
    } | other  # fmt: skip


def candidate(prompts, text, right, score, *, ended=False, count=1):
    ids = prompts.tokenizer.encode(text + "\n") + ([0] if ended else [])
    return {"text": text, "token_ids": ids, "count": count, "ended": ended, "score": score,
            "is_right": right, "judgement": None, "critique": None}  # fmt: skip


def searched_step(prompts, number, texts, *, flip=False, outcome="appended", ended=False):
    """A step of three candidates, the first right; with ``flip`` the last two are judged by position."""
    verdicts = {}
    for pair in both_orders(len(texts)):
        by_place = flip and 0 not in (pair.first, pair.second)
        wins = 1.0 if by_place else float(pair.first < pair.second)
        said = f"A: {texts[pair.first]}\nB: {texts[pair.second]}\n[[{'A' if wins else 'B'}]]"
        verdicts[pair] = Verdict(wins, said)
    if outcome == "rolled_back":
        verdicts = {pair: Verdict(1.0, "[[A]]") for pair in verdicts}
    points = scores([1] * len(texts), verdicts)
    return {
        "number": number, "opening_ids": [], "outcome": outcome, "kept": outcome != "rolled_back",
        "num_truncated": 0, "tied": outcome == "rolled_back", "work": None,
        "chosen": None if outcome == "rolled_back" else 0,
        "rejected": None if outcome == "rolled_back" else 2,
        "candidates": [
            candidate(prompts, text, i == 0, point, ended=ended and i == 0)
            for i, (text, point) in enumerate(zip(texts, points, strict=True))
        ],
        "verdicts": [
            {"first": pair.first, "second": pair.second, "first_wins": v.first_wins, "text": v.text,
             "mass": v.mass}
            for pair, v in verdicts.items()
        ],
    }  # fmt: skip


def searches(prompts, num, seed):
    """Searches of the embedded problems: some flip, one goes back, one failed."""
    rows = []
    for i, problem in enumerate(ift_problems(num, seed=seed)):
        row = dict.fromkeys(SEARCH_SCHEMA.names) | {
            "id": f"train-{seed}/{i}", "problem": problem.text, "answer": problem.answer,
            "plan": problem.plan, "num_rollbacks": 0, "steps": [], "end": "finished",
            "prompt_ids": list(prompts.solve_ids(problem.text)), "num_sampled_tokens": 30,
            "num_judge_tokens": 12, "num_work_tokens": 0, "num_critique_tokens": 0,
            "num_compare_tokens": 12, "num_thinking_tokens": 0, "num_cut_texts": 0,
            "num_prompt_tokens": 90, "num_cached_tokens": 60,
            "predicted": problem.answer, "correct": True,
        }  # fmt: skip
        if i == 1:
            rows.append(row | {"error": "ProblemTooLong: 900 tokens", "end": None, "steps": None})
            continue
        lines = problem.solution.splitlines()
        for number, line in enumerate(lines, start=1):
            texts = [line, line[:-1] + "1", line[:-1] + "0"]
            if i == 2 and number == 2:
                row["steps"].append(searched_step(prompts, 2, texts, outcome="rolled_back"))
                row["num_rollbacks"] = 1
            last = number == len(lines)
            row["steps"].append(searched_step(prompts, number, texts, flip=i % 3 == 0, ended=last))
        rows.append(row)
    return rows


def benchmark_figures(num_right):
    from psr_ray.measures.benchmark import figures_of_benchmark

    return {
        "gsm8k_test": figures_of_benchmark([solution(j, j < num_right) for j in range(20)], [], [])
    }


def finished_run(tmp_path, *overrides, num_searches=5):
    """The run; ``overrides`` of configs/smoke.yaml."""
    config = load_config(
        ROOT / "configs" / "smoke.yaml",
        (f"runs_dir={tmp_path}", "num_iterations=2", f"data.benchmarks=[{BENCHMARK}]", *overrides),
    )
    run = RunDirectory(config)
    prompts = PromptBuilder(load_tokenizer(config.model.base), config.prompts)
    run.claim()
    found = []
    for i, planned in enumerate(planned_stages(run)):
        folder, facts = planned.stage.folder, {}
        planned.stage.open()
        if planned.kind == "data":
            facts = write_data(config, folder)
        if planned.kind in ("sft", "train"):
            shutil.copytree(local_copy(config.model.base), folder / "model")
            line = {"step": 1, "dpo_loss": math.log(2), "chosen_logp_change": 0.1}
            line |= {"rejected_logp_change": -0.2, "accuracy": 0.5, "sft_loss": 1.0}
            (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
            facts = {"last": line, "num_dropped": 0}
        if planned.kind == "search":
            found = searches(prompts, num_searches, planned.iteration)
            write_shard(folder / "search", found, SEARCH_SCHEMA)
            facts = figures_of(found).summary()
        if planned.kind == "preferences":
            pairs = [pair for row in found for pair in preferences_of(row)]
            write_shard(folder / PAIRS, pairs, PREFERENCE_SCHEMA)
            facts = {"num_pairs": len(pairs), "chosen_right_share": 1.0}
            facts |= {"rejected_right_share": 0.0}
        if planned.kind == "evaluate":
            facts = solution_figures([solution(j, j < 5 + i) for j in range(20)])
            facts |= judge_figures([]) | {"benchmarks": benchmark_figures(5 + i)}
            facts["search"] = figures_of(found).summary() if found else {}
        planned.stage.finish(1.0, **facts)
    run.release()
    return run


__all__ = ["Comparison", "finished_run", "solution"]
