"""The benchmarks of the paper (arXiv 2503.03746, Table 1) by name, from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from psr_ray.errors import PsrError, last_line
from psr_ray.storage.files import whole_file
from psr_ray.storage.locations import cache_folder, location


class HubFile(NamedTuple):
    """A split of a dataset on the Hub."""

    dataset: str
    config: str | None
    split: str


# MATH-500 is the usual sample of MATH (arXiv 2305.20050); the paper measures on all 5,000.
BENCHMARKS = {
    "gsm8k": HubFile("openai/gsm8k", "main", "test"),
    "math500": HubFile("HuggingFaceH4/MATH-500", None, "test"),
    "gaokao2023en": HubFile("MARIO-Math-Reasoning/Gaokao2023-Math-En", None, "train"),
    "olympiadbench": HubFile("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train"),
    "aime24": HubFile("HuggingFaceH4/aime_2024", None, "train"),
    "amc23": HubFile("math-ai/amc23", None, "test"),
}


def benchmark_file(name: str) -> Path:
    """The problems of a benchmark: a file as it stands, or a named one, fetched once a machine.

    Raises ``PsrError`` for an unknown name, and where the Hub cannot be reached.
    """
    path = location(name)
    if path.is_file():
        return path
    if name not in BENCHMARKS:
        raise PsrError(
            f"benchmark {name}: no such file, and none of {', '.join(BENCHMARKS)}; give one of them"
        )
    kept = cache_folder() / "benchmarks" / f"{name}.parquet"
    if not kept.is_file():
        _fetch(name, kept)
    return kept


def _fetch(name: str, kept: Path) -> None:
    from datasets import load_dataset

    where = BENCHMARKS[name]
    try:
        rows = load_dataset(where.dataset, where.config, split=where.split)
    except Exception as error:  # of the network, the Hub, the dataset's own format
        raise PsrError(
            f"benchmark {name}: {where.dataset} cannot be fetched from the Hub ({last_line(error)}); "
            "give the path of a JSONL or Parquet file with its problems instead"
        ) from error
    with whole_file(kept) as unfinished:
        rows.to_parquet(str(unfinished))
