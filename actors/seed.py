"""Seed data that a model or a server helps to make: divided solutions, valued and judged step pairs.

    problems ─► trees/ (search, rollouts) ─► pairs ─► judgements/ (both orders) ─► eft.parquet

Each folder is a stage of its own, streamed through Ray Data; rerun the command to resume.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.endpoint import EndpointWorker, without_engine
from actors.rows import engine_stage
from psr_ray.config import Config
from psr_ray.data.benchmarks import phrases_of
from psr_ray.data.files import Failures, read_records
from psr_ray.data.rows import TASK_SCHEMA, problem_row
from psr_ray.data.seed.eft import (
    ValuedPair,
    in_order,
    keep,
    prm800k_pairs,
    split_by_problem,
    tree_pairs,
)
from psr_ray.data.seed.ift import digest
from psr_ray.data.sources import problems_of
from psr_ray.doctor import check_model
from psr_ray.errors import PsrError
from psr_ray.method.judge import pair_texts
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.problems import Problem
from psr_ray.runs import Stage, content_key, fingerprint
from psr_ray.stages import GENERATION_SETTINGS, settings_of
from psr_ray.storage.files import Json, Row, write_text
from psr_ray.storage.folders import FolderLock, disk_checked
from psr_ray.storage.shards import read_rows, shards, write_rows

SEED_SETTINGS = (*GENERATION_SETTINGS, "search", "evaluation", "seed_data")


def writer_name(config: Config, model: str) -> str:
    """Identity of the teacher: the server's model, or the local model's fingerprint."""
    endpoint = config.seed_data.endpoint
    return f"{endpoint.url} {endpoint.model}" if endpoint else fingerprint(model)


def written(config: Config, folder: Path, prompts: Mapping[str, str], model: str) -> dict[str, Row]:
    """Completions by the teacher (``seed_data.endpoint``, else the local model), by prompt id."""
    rows = [problem_row("write", Problem(id=name, text=text)) for name, text in prompts.items()]
    settings = settings_of(config, *SEED_SETTINGS) | {
        "writer": writer_name(config, model),
        "prompts": sorted(prompts.items()),
    }
    stage = Stage("write", folder, content_key("write", settings, []))
    if config.seed_data.endpoint is not None:
        config, worker, model = without_engine(config), EndpointWorker, ""
        done = engine_stage(config, stage, rows, "write", model, worker)
    else:
        check_model(model, config)
        done = engine_stage(config, stage, rows, "write", model)
    return {row["id"]: row for row in read_rows(shards(done))}


def step_trees(
    config: Config, model: str, paths: Sequence[Path], benchmarks: Sequence[Path], folder: Path
) -> tuple[list[Row], list[dict[str, Any]]]:
    """The step trees of all problems with answers that no benchmark holds, and what was left out."""
    known, failures, rows = phrases_of(benchmarks), Failures(), dict[str, Row]()
    for path in paths:
        for line, problem in problems_of(path, failures):
            held_by = known.found_in(problem.text)
            if held_by is not None:
                failures.add(path, line, f"in a benchmark: {held_by}")
            elif problem.answer is None:
                failures.add(path, line, "no answer")
            elif problem.id in rows:
                failures.add(path, line, "its id occurs a second time")
            else:
                rows[problem.id] = problem_row("tree", problem)
    if paths and not rows:
        raise PsrError(
            f"{', '.join(map(str, paths))}: no problem is left to search "
            f"({dict(reasons_of(failures.items))}); give problems with answers that no benchmark holds"
        )
    trees = list[Row]()
    if rows:
        check_model(model, config)
        settings = settings_of(config, *SEED_SETTINGS) | {
            "model": fingerprint(model),
            "problems": list(rows.values()),
        }
        del settings["seed_data"]["endpoint"], settings["seed_data"]["min_gap"]
        stage = Stage("trees", folder, content_key("trees", settings, []))
        done = engine_stage(config, stage, list(rows.values()), "tree", model)
        trees = sorted(read_rows(shards(done)), key=lambda row: row["id"])
    return trees, failures.items


def labelled_pairs(
    paths: Sequence[Path], benchmarks: Sequence[Path]
) -> tuple[list[ValuedPair], list[dict[str, Any]]]:
    """The pairs of PRM800K files that no benchmark holds, and what was left out."""
    known, failures, pairs = phrases_of(benchmarks), Failures(), list[ValuedPair]()
    for path in paths:
        for line, record in read_records(path, failures):
            try:
                found = prm800k_pairs(record, path, line)
            except ValueError as error:
                failures.add(path, line, str(error))
                continue
            held_by = known.found_in(found[0].problem.text) if found else None
            if held_by is not None:
                failures.add(path, line, f"in a benchmark: {held_by}")
            else:
                pairs += found
    return pairs, failures.items


def reasons_of(items: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How often each reason to leave something out occurs."""
    return Counter(item["reason"].split(":")[0] for item in items)


def build_eft(
    config: Config,
    model: str,
    judge: str,
    folder: Path,
    problems: Sequence[Path],
    prm800k: Sequence[Path],
    benchmarks: Sequence[Path],
) -> Json:
    """Judged step pairs from problems with known answers and from PRM800K files; returns counts.

    ``model`` searches; ``judge`` (or ``seed_data.endpoint``) writes reason and verdict. Raises
    ``PsrError`` where a file cannot be read, where no pair is kept, and where the folder
    holds other results.
    """
    digests = [[digest(path) for path in paths] for paths in (problems, prm800k, benchmarks)]
    settings = settings_of(config, *SEED_SETTINGS) | {"files": digests}
    models = [fingerprint(model), writer_name(config, judge)]
    stage = Stage("eft", folder, content_key("eft", settings, models))
    if stage.is_complete:
        return stage.manifest or {}
    stage.check_free("another model, config or set of files")
    started = time.monotonic()
    with disk_checked(folder), FolderLock(folder):
        stage.open()
        trees, rejected = step_trees(config, model, problems, benchmarks, folder / "trees")
        pairs, unusable = labelled_pairs(prm800k, benchmarks)
        rejected += unusable
        for tree in trees:
            if tree["error"]:
                rejected.append({"id": tree["id"], "reason": "no tree: " + tree["error"]})
            else:
                pairs += tree_pairs(tree, config.seed_data.min_gap)
        if not pairs:
            ends = Counter(tree["end"] for tree in trees)
            raise PsrError(
                f"{folder}: no two candidates of a step are {config.seed_data.min_gap} apart in value "
                f"(trees end {dict(ends)}); give more problems, of the model's difficulty, or a lower "
                "seed_data.min_gap"
            )
        prompts = PromptBuilder(load_tokenizer(model), config.prompts)
        asked = {
            f"{pair.problem.id}#{right}": prompts.judging_text(
                "judge", pair_texts(pair.problem.text, pair.steps_so_far, *in_order(pair, right))
            )
            for pair in pairs
            for right in "AB"
        }
        judgements = written(config, folder / "judgements", asked, judge)
        kept, refused = keep(pairs, judgements, config.seed)
        rejected += refused
        reasons = reasons_of(rejected)
        write_text(folder / "rejected.jsonl", "".join(json.dumps(item) + "\n" for item in rejected))
        if not kept:
            raise PsrError(
                f"{folder}: of {len(pairs)} pairs the judge agreed with none in both orders "
                f"({dict(reasons)}); take a stronger one: --judge, or seed_data.endpoint"
            )
        train, test = split_by_problem(kept, config.seed_data.num_test, config.seed)
        write_rows(folder / "eft.parquet", train, TASK_SCHEMA)
        write_rows(folder / "eft_test.parquet", test, TASK_SCHEMA)
        stage.finish(
            time.monotonic() - started,
            trees=len(trees),
            pairs=len(pairs),
            kept=len(train),
            test=len(test),
            rejected=dict(reasons),
        )
    return stage.manifest or {}
