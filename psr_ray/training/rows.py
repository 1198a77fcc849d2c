"""The rows of a training, and which of them each optimizer step sees."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from psr_ray.config import RefreshConfig
from psr_ray.errors import PsrError
from psr_ray.method.preferences import JUDGED_PAIRS, PAIRS, SOLUTIONS
from psr_ray.method.prompts import PromptBuilder
from psr_ray.storage.files import Row
from psr_ray.storage.shards import read_rows, shards
from psr_ray.training.examples import (
    PreferenceExample,
    SFTExample,
    batches_by_search,
    cycle,
    eft_example,
    ift_example,
    mixed_batches,
    points_example,
    preference_example,
    solution_example,
    within_length,
)
from psr_ray.training.job import TrainingJob


@dataclass(frozen=True)
class TrainingData:
    """Rows of a training run and the row indices of every step; a kind without rows has no plan.

    ``dropped`` are the ids of rows that do not fit."""

    examples: list[SFTExample]
    plan: list[list[int]]
    pairs: list[PreferenceExample]
    pair_plan: list[list[int]]
    dropped: list[str]


def sft_data(job: TrainingJob, prompts: PromptBuilder) -> TrainingData:
    """IFT and EFT rows that fit, in mixed batches."""
    length, settings = job.config.model.max_length, job.config.sft
    assert settings is not None
    ift, ift_dropped = within_length(
        (ift_example(row, prompts) for row in read_rows([job.data / "ift.parquet"])), length
    )
    judged = [
        eft_example(row, prompts, job.config.judge) for row in read_rows([job.data / "eft.parquet"])
    ]
    if job.config.data.eft_solutions is not None:
        rows = read_rows([job.data / "eft_solutions.parquet"])
        judged += [points_example(row, prompts) for row in rows]
    eft, eft_dropped = within_length(judged, length)
    if not ift and not eft:
        raise PsrError(f"{job.stage}: no row of {job.data} fits in {length} tokens")
    plan = mixed_batches(
        len(ift),
        len(eft),
        settings.ift_per_batch,
        settings.num_epochs,
        settings.batch_size,
        job.config.seed,
    )
    return TrainingData(ift + eft, plan, [], [], ift_dropped + eft_dropped)


def dpo_data(job: TrainingJob, prompts: PromptBuilder) -> TrainingData:
    """Step preferences that fit, and the complete solutions and judged pairs added to batches.

    Rows come in the order of their ids: shards hold them in the order in which searches ended, which
    varies."""
    assert job.preferences is not None
    length, settings, seed = job.config.model.max_length, job.config.dpo, job.config.seed
    rows = sorted(
        read_rows(shards(job.preferences / PAIRS)),
        key=lambda row: (row["problem_id"], row["step_number"], row["id"]),
    )
    pairs, dropped = within_length(map(preference_example, rows), length)
    if not pairs:
        raise PsrError(
            f"{job.stage}: no step preferences in {job.preferences}; the searches gave none: see the "
            "report for ties (a judge that cannot tell steps apart: docs/judging.md), identical "
            "candidates, errors"
        )
    pair_plan = batches_by_search(pairs, settings.num_epochs, settings.batch_size, seed)
    added = AddedRows(len(pair_plan), seed)
    if settings.solutions_per_batch:
        rows = sorted(read_rows(shards(job.preferences / SOLUTIONS)), key=lambda row: row["id"])
        solutions, too_long = within_length(map(solution_example, rows), length)
        dropped += too_long
        added.add("solutions", solutions, settings.solutions_per_batch)
    if job.config.refresh is not None:
        for name, rows, num in judged_rows(job, job.config.refresh):
            examples = (eft_example(row, prompts, job.config.judge) for row in rows)
            judged, too_long = within_length(examples, length)
            dropped += too_long
            added.add(name, judged, num)
    return TrainingData(added.rows, added.plan, pairs, pair_plan, dropped)


class AddedRows:
    """Rows with an SFT loss that go with the pairs: ``plan`` has some of each kind for every step."""

    def __init__(self, num_steps: int, seed: int) -> None:
        self.rows: list[SFTExample] = []
        self.plan: list[list[int]] = []
        self.num_steps, self.seed = num_steps, seed

    def add(self, name: str, rows: list[SFTExample], per_batch: int) -> None:
        """Give each step ``per_batch`` of the rows, in a new random order each time all were seen."""
        if not rows or not per_batch:
            return
        order = iter(cycle(len(rows), random.Random(f"{name}/{self.seed}")))
        first = len(self.rows)
        self.rows += rows
        self.plan = self.plan or [[] for _ in range(self.num_steps)]
        for batch in self.plan:
            batch += [first + next(order) for _ in range(per_batch)]


def judged_rows(job: TrainingJob, settings: RefreshConfig) -> Iterator[tuple[str, list[Row], int]]:
    """The judged pairs of the round and those of `data.eft`, with how many of each a batch gets."""
    assert job.preferences is not None
    own = sorted(read_rows(shards(job.preferences / JUDGED_PAIRS)), key=lambda row: row["id"])
    older = list(read_rows([job.data / "eft.parquet"])) if job.config.sft is not None else []
    num_older = round(settings.replay * settings.per_batch) if own else settings.per_batch
    if not older:
        num_older = 0
    yield "own judgements", own, settings.per_batch - num_older
    yield "older judgements", older, num_older
