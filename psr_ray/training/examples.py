"""Training rows as token ids, and the order in which they are seen.

The order depends on seed and batch size alone: any number of workers and any token budget see the
same rows in the same optimizer step.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from psr_ray.config import Config, JudgeConfig
from psr_ray.data.rows import pair_of
from psr_ray.errors import PsrError
from psr_ray.method.judges import judge_of
from psr_ray.method.prompts import PromptBuilder, TokenIds, load_tokenizer
from psr_ray.method.ranking import points_prompt
from psr_ray.storage.files import Row
from psr_ray.storage.shards import read_rows


@dataclass(frozen=True)
class SFTExample:
    """A prompt and the completion to learn; the loss covers the completion only.

    ``others`` are further prompts with their completions that are learned with it, as parts of one row:
    they share its beginning."""

    id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    others: tuple[tuple[TokenIds, TokenIds], ...] = ()

    def __len__(self) -> int:
        return max(len(prompt) + len(completion) for prompt, completion in self.paths)

    @property
    def paths(self) -> list[tuple[TokenIds, TokenIds]]:
        """All prompts with their completions."""
        return [(self.prompt_ids, self.completion_ids), *self.others]


@dataclass(frozen=True)
class PreferenceExample:
    """A step preference: problem and steps so far, then the better or the worse next step.

    ``search`` names the search it comes from: its pairs share their prefix.
    """

    id: str
    search: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


def ift_example(row: Row, prompts: PromptBuilder) -> SFTExample:
    """A problem and its solution in steps, closed by EOS."""
    if not row["solution"]:
        raise PsrError(f"IFT row {row['id']}: no `solution`; IFT rows need one in steps")
    return closed(row["id"], prompts.solve_ids(row["problem"]), row["solution"], prompts)


def eft_example(row: Row, prompts: PromptBuilder, settings: JudgeConfig) -> SFTExample:
    """A judged pair, as the run's judge is to answer it."""
    end = (prompts.tokenizer.eos_token_id,)
    lessons = judge_of(prompts, settings).lessons(pair_of(row))
    (prompt, completion), *others = [(asked, said + end) for asked, said in lessons]
    return SFTExample(row["id"], prompt, completion, tuple(others))


def check_eft(config: Config, data: Path) -> None:
    """Look at the EFT rows for what the run's judge teaches, before anything is evaluated or trained.
    Raises ``PsrError`` with the first row that lacks it."""
    if config.sft is None or config.judge.mode in ("explain", "verdict"):
        return  # these teach any judged pair
    tokenizer = load_tokenizer(config.model.base, trust_remote_code=config.model.trust_remote_code)
    prompts = PromptBuilder(tokenizer, config.prompts)
    for row in read_rows([data / "eft.parquet"]):
        judge_of(prompts, config.judge).lessons(pair_of(row))


def points_example(row: Row, prompts: PromptBuilder) -> SFTExample:
    """A judged solution: reasoning and points."""
    prompt = points_prompt(prompts, row["problem"], [row["solution"]])
    return closed(row["id"], prompt, row["judgement"], prompts)


def closed(name: str, prompt: TokenIds, completion: str, prompts: PromptBuilder) -> SFTExample:
    """A prompt and the completion to learn, closed by EOS."""
    end = (prompts.tokenizer.eos_token_id,)
    return SFTExample(name, prompt, prompts.encode(completion) + end)


def preference_example(row: Row) -> PreferenceExample:
    """A row of the step-preference files."""
    return PreferenceExample(
        row["id"],
        row["problem_id"],
        tuple(row["prompt_ids"]),
        tuple(row["chosen_ids"]),
        tuple(row["rejected_ids"]),
    )


def solution_example(row: Row) -> SFTExample:
    """A row of the solution files: a prompt and all chosen steps, as sampled."""
    return SFTExample(row["id"], tuple(row["prompt_ids"]), tuple(row["completion_ids"]))


def within_length(examples: Iterable[Any], max_length: int) -> tuple[list[Any], list[str]]:
    """The examples that fit, and the ids of those that do not; nothing is ever truncated."""
    fitting, dropped = [], []
    for example in examples:
        if len(example) <= max_length:
            fitting.append(example)
        else:
            dropped.append(example.id)
    return fitting, dropped


def cycle(num_rows: int, rng: random.Random) -> Iterable[int]:
    """Indices in a new random order each epoch, endlessly."""
    order = list(range(num_rows))
    while True:
        rng.shuffle(order)
        yield from order


def batch_sizes(num_rows: int, num_epochs: float, batch_size: int) -> list[int]:
    """Rows of every optimizer step: in all ``num_epochs`` passes over the rows, to a row; as few steps
    as ``batch_size`` allows, and as even (61 rows by 32 are 30 and 31). At least one step."""
    total = max(1, round(num_epochs * num_rows))
    num = math.ceil(total / batch_size)
    return [total * (step + 1) // num - total * step // num for step in range(num)]


def batches(num_rows: int, num_epochs: float, batch_size: int, seed: int) -> list[list[int]]:
    """Row indices of every optimizer step."""
    stream = iter(cycle(num_rows, random.Random(f"order/{seed}")))
    return [list(islice(stream, size)) for size in batch_sizes(num_rows, num_epochs, batch_size)]


def batches_by_search(
    pairs: Sequence[PreferenceExample], num_epochs: float, batch_size: int, seed: int
) -> list[list[int]]:
    """Indices of the pairs of every optimizer step, at most ``batch_size`` each.

    Searches come in a new random order each epoch, the pairs of one side by side and from the first
    step to the last: they are scored as one token tree, or two where a batch ends in between.
    """
    searches: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        searches.setdefault(pair.search, []).append(index)
    groups = [sorted(g, key=lambda i: len(pairs[i].prompt_ids)) for g in searches.values()]
    stream = (
        index
        for group in cycle(len(groups), random.Random(f"order/{seed}"))
        for index in groups[group]
    )
    sizes = batch_sizes(len(pairs), num_epochs, batch_size)
    return [list(islice(stream, size)) for size in sizes]


def mixed_batches(
    num_ift: int,
    num_eft: int,
    ift_share: float | None,
    num_epochs: float,
    batch_size: int,
    seed: int,
) -> list[list[int]]:
    """Row indices of every SFT step; IFT rows come first in the numbering.

    With a share, each batch holds that share of IFT rows and an epoch is one pass over the EFT
    rows (over the IFT rows where there are no others).
    """
    if ift_share is None or not num_ift or not num_eft:
        return batches(num_ift + num_eft, num_epochs, batch_size, seed)
    from_eft = batch_size - round(ift_share * batch_size)
    ift = iter(cycle(num_ift, random.Random(f"ift/{seed}")))
    eft = iter(cycle(num_eft, random.Random(f"eft/{seed}")))
    if not from_eft:
        return [list(islice(ift, size)) for size in batch_sizes(num_ift, num_epochs, batch_size)]
    ratio = (batch_size - from_eft) / from_eft
    return [
        [*islice(ift, round(size * ratio)), *(num_ift + index for index in islice(eft, size))]
        for size in batch_sizes(num_eft, num_epochs, from_eft)
    ]
