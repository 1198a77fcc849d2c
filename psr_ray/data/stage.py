"""The data stage: problems and judged pairs from their sources, as Parquet files of task rows.

    ift.parquet  eft.parquet  eft_solutions.parquet        for M0 → M1, unless `sft` is null
    search-1.parquet …                                     to search, one an iteration
    heldout.parquet  hard.parquet  judge.parquet           to measure every model
    heldout-search.parquet  heldout-sample.parquet         the first held-out problems once more
    benchmark.parquet  benchmark-search.parquet …          the benchmarks, the same way

Records left out (broken lines, problems that are held out) are listed in failed.jsonl with file,
line and reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from psr_ray.config import Config, SourceConfig
from psr_ray.data.benchmarks import (
    benchmark_file,
    benchmark_of,
    benchmark_rows,
    check_benchmarks,
    phrases_of,
)
from psr_ray.data.decontamination import Benchmarks
from psr_ray.data.files import Failures, files_of
from psr_ray.data.rows import TASK_SCHEMA, problem_of
from psr_ray.data.sources import (
    EVERYTHING,
    drawn,
    draws,
    ift_rows,
    pair_rows,
    problem_rows,
    solution_judgement_rows,
)
from psr_ray.embedded.arithmetic import check_disjoint
from psr_ray.errors import PsrError
from psr_ray.runs import digest_of
from psr_ray.storage.files import Row, write_text
from psr_ray.storage.locations import location
from psr_ray.storage.shards import write_rows

HELD_OUT = "held out"
# Sets that M1 is fine-tuned on.
SEED = ("ift", "eft", "eft_solutions")
# Sets that models are measured on, beside the benchmarks; none of their problems is trained on.
MEASURED = ("heldout", "hard", "judge")


def search_files(config: Config) -> list[str]:
    """Names of the files with problems to search, one an iteration."""
    return [f"search-{k}" for k in range(1, config.num_iterations + 1)]


def evaluation_files(config: Config, model: str) -> list[str]:
    """Names of the files that a model is measured on; M0 neither searches nor samples."""
    files = ["heldout"]
    if config.data.hard is not None:
        files.append("hard")
    if config.data.judge is not None:
        files.append("judge")
    if config.data.benchmarks:
        files.append("benchmark")
    if model != "M0":
        files += ["heldout-search", "heldout-sample"]
        if config.data.benchmarks and config.evaluation.search_benchmarks:
            files += ["benchmark-search", "benchmark-sample"]
    return files


def held_out_phrases(config: Config, files: dict[str, list[Row]]) -> Benchmarks:
    """The phrases of held-out problems: the benchmarks', the held-out sets', the judge's. Those of the
    embedded source are separated by their numbers instead (they share their wording)."""
    data = config.data
    if not data.decontaminate:
        return Benchmarks()
    known = phrases_of([benchmark_file(name) for name in data.benchmarks])
    for name in MEASURED:
        texts = [row["problem"] for row in files.get(name, []) if row["plan"] is None]
        known.add(f"data.{name}", texts)
    return known


def without_held_out(
    rows: Iterable[Row], known: Benchmarks, name: str, failures: Failures
) -> Iterator[Row]:
    """The rows whose problems are not held out; the others go to ``failures``.

    Raises ``PsrError`` where none is left.
    """
    place = num_kept = 0
    holders = Counter[str]()
    for place, row in enumerate(rows, start=1):
        held_by = known.found_in(row["problem"]) if row["plan"] is None else None
        if held_by is None:
            num_kept += 1
            yield row
        else:
            holders[held_by] += 1
            failures.add(Path(f"data.{name}"), place, f"{HELD_OUT} by {held_by}: {row['id']}")
    if place and not num_kept:
        raise PsrError(
            f"data.{name}: all of its {place} problems share 13 words in a row with problems that are "
            f"held out ({', '.join(f'{num} by {holder}' for holder, num in holders.most_common())}); "
            "train on others, lower the `num` of what holds them, or set data.decontaminate to false"
        )


def write_data(config: Config, folder: Path) -> Row:
    """Write all files of the data stage; returns facts for its manifest."""
    failures = Failures()
    seed, data = config.seed, config.data
    files = {"heldout": held_out_rows(data.heldout, seed, failures)}
    if config.sft is not None:
        files["ift"] = ift_rows(data.ift, seed, failures)
        files["eft"] = pair_rows(data.eft, "eft", seed, failures)
        if data.eft_solutions is not None:
            files["eft_solutions"] = solution_judgement_rows(data.eft_solutions, seed, failures)
    if data.hard is not None:
        files["hard"] = held_out_rows(data.hard, seed, failures, "hard")
    if data.judge is not None:
        files["judge"] = pair_rows(data.judge, "judge", seed, failures)
    if data.benchmarks:
        files |= benchmark_files(config, failures)
    known = held_out_phrases(config, files)
    # pairs that the run has set aside itself may be of problems that are also in other sources
    used = {text_of(row) for row in files.get("judge", [])}
    for name in SEED:
        if name in files:
            kept = without_held_out(files[name], known, name, failures)
            files[name] = [row for row in kept if text_of(row) not in used]
    used |= {text_of(row) for name in SEED for row in files.get(name, [])}
    files |= fresh_problems(config, failures, known, used)
    groups = {name: files[name] for name in search_files(config)}
    groups["held out"] = [row for name in MEASURED for row in files.get(name, [])]
    groups["ift and eft"] = [row for name in SEED for row in files.get(name, [])]
    check_disjoint({name: map(problem_of, rows) for name, rows in groups.items()})
    again = files["heldout"][: config.evaluation.num_search_problems]
    files |= repeated("heldout", again, ("search", "sample"))
    for name, rows in files.items():
        write_rows(folder / f"{name}.parquet", rows, TASK_SCHEMA)
    lines = "".join(json.dumps(item) + "\n" for item in failures.items)
    write_text(folder / "failed.jsonl", lines)
    contaminated = [item for item in failures.items if item["reason"].startswith(HELD_OUT)]
    return {
        "sources": source_digests(config),
        "revisions": failures.revisions,
        "rows": {name: len(rows) for name, rows in files.items()},
        "num_failed": len(failures.items) - len(contaminated),
        "num_held_out": len(contaminated),
        "failed_examples": failures.items[:3],
    }


def held_out_rows(
    source: SourceConfig, seed: int, failures: Failures, dataset: str | None = None
) -> list[Row]:
    """The problems of a held-out set: of a file or the Hub a draw that is the same in every run (by
    `data.*.seed`, not the run's), because such sets may be in an order."""
    if source.kind not in ("file", "hub"):
        return list(problem_rows(source, "heldout", "solve", seed, failures, dataset))
    whole = source.model_copy(update={"num": EVERYTHING})
    rows = problem_rows(whole, "heldout", "solve", seed, failures, dataset)
    return drawn(rows, source.num, source.seed_in(0))


def source_digests(config: Config, stage: str = "data") -> dict[str, str]:
    """A hash of the files that the data stage (or one that makes seed data) reads, by their path in the
    config."""
    part = stage.removeprefix("seed-") + "."
    of_seed = [s for name, s in config.seed_sources().items() if name.startswith(part)]
    sources = config.sources().values() if stage == "data" else of_seed
    paths = {str(source.path) for source in sources if source.kind == "file"}
    paths |= {name for name in config.data.benchmarks if location(name).is_file()}
    return {path: content_digest(path) for path in sorted(paths)}


def content_digest(path: str) -> str:
    """A hash of the file, the saved dataset or the glob of files that a path names."""
    found = files_of(path)
    return digest_of(found if found[0].is_file() else found[0].iterdir())


def check_sources(config: Config, stage: str, manifest: Row) -> None:
    """Raises ``PsrError`` where a file is another one than the complete stage read."""
    before = manifest.get("sources", {})
    for path, digest in source_digests(config, stage).items():
        if before.get(path, digest) != digest:
            raise PsrError(
                f"{path} has changed since this run read it: put it back, give the run another name, or "
                f"--force {stage} to redo the run with it"
            )


def repeated(name: str, rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, list[Row]]:
    """Files of the same problems for other tasks."""
    return {f"{name}-{task}": [row | {"task": task} for row in rows] for task in tasks}


def benchmark_files(config: Config, failures: Failures) -> dict[str, list[Row]]:
    """The problems of all benchmarks; of each the first ones once more, to search and to sample."""
    check_benchmarks(config.data.benchmarks)
    settings = config.evaluation
    rows = [
        row
        for name in config.data.benchmarks
        for row in benchmark_rows(name, settings.num_benchmark_problems, failures)
    ]
    taken, again = Counter[str](), list[Row]()
    for row in rows:
        name = benchmark_of(row["id"])
        taken[name] += 1
        if taken[name] <= settings.num_search_problems:
            again.append(row)
    return {"benchmark": rows} | repeated("benchmark", again, ("search", "sample"))


def text_of(row: Row) -> str:
    """What tells a problem from others, whatever its id; as ``check_disjoint`` takes it."""
    return str(row["plan"] or row["problem"])


def distinct(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows without those whose problem was there before."""
    seen: set[int] = set()
    for row in rows:
        text = hash(text_of(row))
        if text not in seen:
            seen.add(text)
            yield row


def fresh_problems(
    config: Config, failures: Failures, known: Benchmarks, used: set[str]
) -> dict[str, list[Row]]:
    """The problems that each iteration searches; none of those ``used``, and none twice. Those of the
    first iterations do not depend on how many follow."""
    pools: dict[str, list[Row]] = {}
    wanted = [config.train_source(k) for k in range(1, config.num_iterations + 1)]
    files: dict[str, list[Row]] = {}
    total = sum(source.num for source in wanted)
    for name, source in zip(search_files(config), wanted, strict=True):
        is_stored = source.kind in ("file", "hub")  # perhaps in an order
        num = EVERYTHING if is_stored else total
        whole = source.model_copy(update={"num": num})
        key = whole.model_dump_json()
        if key not in pools:
            rows = problem_rows(whole, "train", "search", config.seed, failures)
            fit = distinct(without_held_out(rows, known, "train", failures))
            most = total + len(used)
            taken = [row for _, row in draws(fit, most, config.seed)] if is_stored else list(fit)
            pools[key] = taken
        fresh = [row for row in pools[key] if text_of(row) not in used][: source.num]
        if not fresh:
            raise PsrError(
                f"data.train: no problems left for {name}: {source.path or source.kind} is used up "
                "by earlier iterations; give more problems or a lower `num`"
            )
        used |= {text_of(row) for row in fresh}
        files[name] = fresh
    return files
