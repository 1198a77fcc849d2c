"""Seed data in a run or by `jobs/build_seed.py`: divided solutions, valued and judged step pairs.

    problems ─► trees/ (search, rollouts) ─► pairs ─► judgements/ (both orders) ─► eft.parquet

Each folder is a stage of its own, streamed through Ray Data; rerun the command to resume.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from actors.endpoint import EndpointWorker, without_engine
from actors.rows import engine_stage
from actors.searcher import EngineWorker
from psr_ray.config import Config, SourceConfig
from psr_ray.config.seed import EFTDataConfig
from psr_ray.data.decontamination import Benchmarks
from psr_ray.data.files import Failures
from psr_ray.data.rows import TASK_SCHEMA, problem_row
from psr_ray.data.seed.eft import (
    ValuedPair,
    Written,
    critique_questions,
    judge_questions,
    keep,
    prm800k_pairs,
    split_by_problem,
    tree_pairs,
    work_questions,
)
from psr_ray.data.seed.ift import make_ift
from psr_ray.data.seed.sources import names_of, problems_of_all, reasons_of
from psr_ray.data.sources import records_of, renamed
from psr_ray.data.stage import held_out_phrases, source_digests
from psr_ray.doctor import check_model
from psr_ray.errors import PsrError
from psr_ray.method.judges import SharedJudge, judge_class
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.problems import Problem
from psr_ray.runs import Stage, content_key, fingerprint
from psr_ray.stages import GENERATION_SETTINGS, TREE_SETTINGS, settings_of, writer_name
from psr_ray.storage.files import Json, Row, write_text
from psr_ray.storage.folders import FolderLock, disk_checked
from psr_ray.storage.shards import read_rows, shards, write_rows
from psr_ray.telemetry.progress import ProgressWriter


def ift_stage(config: Config, folder: Path, progress: ProgressWriter) -> Json:
    """A run's IFT rows, in their stage's folder; returns counts."""
    asked = config.seed_data.ift
    assert asked is not None
    writer = None
    if asked.divide_by == "model":
        where = folder / "divisions"
        writer = partial(written, config, where, model=config.model.base, progress=progress)
    digests = {"sources": source_digests(config, "seed-ift")}
    known = held_out_phrases(config, {})
    return digests | make_ift(asked.sources, folder, known, asked.max_steps, writer, config.seed)


def eft_stage(config: Config, folder: Path, progress: ProgressWriter) -> Json:
    """A run's EFT rows, in their stage's folder; returns counts."""
    asked = config.seed_data.eft
    assert asked is not None
    digests = {"sources": source_digests(config, "seed-eft")}
    facts = digests | make_eft(config, asked, folder, held_out_phrases(config, {}), progress)
    judge = config.data.judge
    if judge is not None and judge.kind == "seed" and not facts["test"]:
        raise PsrError(
            f"{folder}: of {facts['kept']} pairs none could be set aside for data.judge; give "
            "seed_data.eft more problems, or set data.judge to null"
        )
    return facts


def written(
    config: Config,
    folder: Path,
    prompts: Mapping[str, str],
    model: str,
    progress: ProgressWriter | None = None,
) -> dict[str, Row]:
    """Completions by the teacher (``seed_data.endpoint``, else the local model), by prompt id."""
    rows = [problem_row("write", Problem(id=name, text=text)) for name, text in prompts.items()]
    settings = settings_of(config, *GENERATION_SETTINGS, "seed_data.max_tokens") | {
        "writer": writer_name(config, model),
        "texts": sorted(prompts.items()),
    }
    stage = Stage("write", folder, content_key("write", settings, []))
    worker: type[EngineWorker] = EngineWorker
    if config.seed_data.endpoint is not None:
        config, worker, model = without_engine(config), EndpointWorker, ""
    else:
        check_model(model, config)
    done = engine_stage(config, stage, rows, "write", model, worker, progress=progress)
    return {row["id"]: row for row in read_rows(shards(done))}


def step_trees(
    config: Config,
    model: str,
    sources: Sequence[SourceConfig],
    known: Benchmarks,
    folder: Path,
    failures: Failures,
    progress: ProgressWriter | None,
) -> list[Row]:
    """The step trees of all problems with answers that no benchmark holds; the others go to
    ``failures``."""
    rows = dict[str, Row]()
    for place, problem in problems_of_all(sources, config.seed, failures):
        held_by = known.found_in(problem.text)
        if held_by is not None:
            failures.items.append(place | {"reason": f"in a benchmark: {held_by}"})
        elif problem.answer is None:
            failures.items.append(place | {"reason": "no answer"})
        else:
            rows[problem.id] = problem_row("tree", problem)
    if sources and not rows:
        raise PsrError(
            f"{names_of(sources)}: no problem is left to search ({dict(reasons_of(failures.items))}); "
            "give problems with answers that no benchmark holds"
        )
    if not rows:
        return []
    check_model(model, config)
    settings = settings_of(config, *TREE_SETTINGS)
    settings |= {"model": fingerprint(model), "problems": list(rows.values())}
    stage = Stage("trees", folder, content_key("trees", settings, []))
    done = engine_stage(config, stage, list(rows.values()), "tree", model, progress=progress)
    return sorted(read_rows(shards(done)), key=lambda row: row["id"])


def labelled_pairs(
    sources: Sequence[SourceConfig], known: Benchmarks, seed: int, failures: Failures
) -> list[ValuedPair]:
    """The pairs of records in PRM800K's form that no benchmark holds; the others go to ``failures``."""
    pairs = list[ValuedPair]()
    for place, source in enumerate(sources, start=1):
        prefix = f"{place}/" if place > 1 else ""  # files of one name number their records alike
        for num, (path, line, record) in enumerate(records_of(source, seed, failures)):
            if num == source.num:
                break
            try:
                found = prm800k_pairs(renamed(source, record), path, line, prefix)
            except ValueError as error:
                failures.add(path, line, str(error))
                continue
            held_by = known.found_in(found[0].problem.text) if found else None
            if held_by is not None:
                failures.add(path, line, f"in a benchmark: {held_by}")
            else:
                pairs += found
    return pairs


def make_eft(
    config: Config,
    asked: EFTDataConfig,
    folder: Path,
    known: Benchmarks,
    progress: ProgressWriter | None = None,
) -> Json:
    """Judged step pairs from problems with known answers and from labelled steps; writes the files and
    returns counts.

    Raises ``PsrError`` where a source cannot be read, and where no pair is kept.
    """
    model, failures = asked.model or config.model.base, Failures()
    where = folder / "trees"
    trees = step_trees(config, model, asked.problems, known, where, failures, progress)
    pairs = labelled_pairs(asked.prm800k, known, config.seed, failures)
    rejected = failures.items
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
    write = partial(written, config, model=asked.judge or model, progress=progress)
    notes, reasons_of_pairs = shared_notes(config, pairs, prompts, folder, write)
    rejected += [
        {"id": pair.problem.id, "gap": pair.gap, "reason": reasons_of_pairs[pair.problem.id]}
        for pair in pairs
        if pair.problem.id in reasons_of_pairs
    ]
    num_pairs = len(pairs)
    pairs = [pair for pair in pairs if pair.problem.id not in reasons_of_pairs]
    questions = judge_questions(pairs, prompts, notes)
    judgements = write(folder / "judgements", questions)
    kept, refused = keep(pairs, judgements, config.seed, notes)
    rejected += refused
    reasons = reasons_of(rejected)
    write_text(folder / "rejected.jsonl", "".join(json.dumps(item) + "\n" for item in rejected))
    if not kept:
        raise PsrError(
            f"{folder}: of {num_pairs} pairs the judge agreed with none in both orders "
            f"({dict(reasons)}); take a stronger one: another judge, or seed_data.endpoint"
        )
    train, test = split_by_problem(kept, config.seed_data.num_test, config.seed)
    write_rows(folder / "eft.parquet", train, TASK_SCHEMA)
    write_rows(folder / "eft_test.parquet", test, TASK_SCHEMA)
    counts = {"trees": len(trees), "pairs": num_pairs, "kept": len(train), "test": len(test)}
    return counts | {"rejected": dict(reasons), "revisions": failures.revisions}


def shared_notes(
    config: Config,
    pairs: Sequence[ValuedPair],
    prompts: PromptBuilder,
    folder: Path,
    write: Callable[[Path, Mapping[str, str]], Mapping[str, Row]],
) -> tuple[dict[str, Written] | None, dict[str, str]]:
    """For `judge.mode: shared`, the steps worked out by the teacher and its critiques, where they are
    asked for, by the pairs' ids; and the reasons of pairs of which one is not there. Else None."""
    if not issubclass(judge_class(config.judge), SharedJudge):
        return None, {}
    reasons = dict[str, str]()

    def texts(kind: str, questions: Mapping[str, str]) -> dict[str, str]:
        done = dict[str, str]()
        for name, row in write(folder / kind, questions).items():
            pair = name.partition("#")[0]
            if row["error"]:
                reasons[pair] = f"{kind}: no answer"
            elif row["finish"] == "length":
                reasons[pair] = f"{kind}: cut off"
            elif not row["text"].strip():
                reasons[pair] = f"{kind}: empty"
            else:
                done[name] = row["text"]
        return done

    works = texts("work", work_questions(pairs, prompts))
    notes = {name: Written(work) for name, work in works.items()}
    if config.judge.critiques:
        said = texts("critiques", critique_questions(pairs, prompts, works))
        notes = {
            name: Written(work, (said[f"{name}#A"], said[f"{name}#B"]))
            for name, work in works.items()
            if name not in reasons
        }
    return notes, reasons


def in_own_folder(name: str, folder: Path, settings: Json, body: Callable[[], Json]) -> Json:
    """Do such work in a folder outside a run; what is complete is not done again. Returns its counts.

    Raises ``PsrError`` where the folder holds other results.
    """
    stage = Stage(name, folder, content_key(name, settings, []))
    if stage.is_complete:
        return stage.manifest or {}
    stage.check_free("another model, config or set of files")
    started = time.monotonic()
    with disk_checked(folder), FolderLock(folder):
        stage.open()
        stage.finish(time.monotonic() - started, **body())
    return stage.manifest or {}
