"""The benchmarks of the paper (arXiv 2503.03746, Table 1) by name, from the Hugging Face Hub; or files.

A benchmark's rows carry its name in their ids: ``gsm8k:test/17``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from psr_ray.data.decontamination import Benchmarks
from psr_ray.data.files import Failures
from psr_ray.data.hub import HubFile, hub_records
from psr_ray.data.rows import problem_row
from psr_ray.data.sources import problems_of
from psr_ray.errors import PsrError
from psr_ray.storage.files import Row, whole_file
from psr_ray.storage.locations import cache_folder, location

# MATH-500 is the usual sample of MATH (arXiv 2305.20050); the paper's figures are of all 5,000.
BENCHMARKS = {
    "gsm8k": HubFile("openai/gsm8k", "main", "test", 1319),
    "math": HubFile("DigitalLearningGmbH/MATH-lighteval", "default", "test", 5000),
    "math500": HubFile("HuggingFaceH4/MATH-500", None, "test", 500),
    "gaokao2023en": HubFile("MARIO-Math-Reasoning/Gaokao2023-Math-En", None, "train", 385),
    "olympiadbench": HubFile("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", 674),
    "aime24": HubFile("HuggingFaceH4/aime_2024", None, "train", 30),
    "amc23": HubFile("math-ai/amc23", None, "test", 40),
}
OF_NAME = ":"


def check_benchmark(name: str) -> str:
    """A benchmark's display name: its own, or its file's. Raises ``PsrError`` where it is neither."""
    path = location(name)
    if path.is_file():
        return path.stem.replace(OF_NAME, "_")
    if name not in BENCHMARKS:
        raise PsrError(
            f"benchmark {name}: no such file, and none of {', '.join(BENCHMARKS)}; give one of them"
        )
    return name


def check_benchmarks(names: Sequence[str]) -> None:
    """Raises ``PsrError`` where one is neither a name nor a file, or two would be shown as the same."""
    seen: dict[str, str] = {}
    for name in names:
        shown = check_benchmark(name)
        if shown in seen:
            raise PsrError(
                f"data.benchmarks: {seen[shown]} and {name} would both be called {shown}; "
                "name each once, and give files different names"
            )
        seen[shown] = name


def benchmark_file(name: str) -> Path:
    """The problems of a benchmark: a file as it stands, or a named one, fetched once a machine.

    Raises ``PsrError`` for an unknown name, and where the Hub cannot be reached.
    """
    check_benchmark(name)
    path = location(name)
    if path.is_file():
        return path
    kept = cache_folder() / "benchmarks" / f"{name}.parquet"
    if not kept.is_file():
        _fetch(name, kept)
    return kept


def num_problems(name: str, most: int | None) -> int:
    """How many problems of a benchmark are solved, at most ``most``; nothing is fetched for it."""
    path = location(name)
    if path.is_file():
        num = sum(1 for _ in problems_of(path, Failures()))
    else:
        num = BENCHMARKS[check_benchmark(name)].num
    return num if most is None else min(num, most)


def _fetch(name: str, kept: Path) -> None:
    from datasets import Dataset

    try:
        rows, _ = hub_records(BENCHMARKS[name], None)
        found = Dataset.from_list(list(rows))
    except PsrError as error:
        raise PsrError(f"benchmark {name}: {error}") from error
    cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    with whole_file(kept) as unfinished:
        found.to_parquet(str(unfinished))


def phrases_of(paths: Sequence[Path]) -> Benchmarks:
    """The phrases of benchmark files. Raises ``PsrError`` where one holds no problem."""
    benchmarks = Benchmarks()
    for path in paths:
        failures = Failures()
        if not benchmarks.add(path.stem, (p.text for _, p in problems_of(path, failures))):
            raise PsrError(f"benchmark {path}: holds no problem; nothing could be kept out by it")
    return benchmarks


def benchmark_rows(name: str, num: int | None, failures: Failures) -> list[Row]:
    """The first ``num`` problems with answers of a benchmark (null: all), as task rows.

    Raises ``PsrError`` where not one has an answer.
    """
    path, shown = benchmark_file(name), check_benchmark(name)
    rows = dict[str, Row]()
    for line, problem in problems_of(path, failures):
        if len(rows) == num:
            break
        if problem.answer is None:
            failures.add(path, line, "no answer to grade by")
        elif problem.id in rows:
            failures.add(path, line, f"id {problem.id!r} occurs a second time")
        else:
            row = problem_row("solve", problem, "benchmark")
            rows[problem.id] = row | {"id": f"{shown}{OF_NAME}{problem.id}"}
    if not rows:
        raise PsrError(
            f"benchmark {name}: no problem has an answer to grade by; give a file with `answer`"
        )
    return list(rows.values())


def benchmark_of(row_id: str) -> str:
    """The benchmark that a row's id names."""
    return row_id.split(OF_NAME, 1)[0]
