"""How long steps, prompts and judgements are: from the run so far, its files, or the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from psr_ray.config import Config
from psr_ray.data.files import Failures
from psr_ray.data.sources import ift_rows, pair_rows
from psr_ray.errors import PsrError
from psr_ray.method.judges import judge_of
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.runs import RunDirectory
from psr_ray.stages import planned_stages
from psr_ray.storage.locations import is_url, location, model_location

# Rows of a file that are measured.
SAMPLE = 200


@dataclass(frozen=True)
class Lengths:
    """Means, in tokens but for ``steps``; ``tokens_per_search`` once a search was measured."""

    steps: float
    step: float
    judgement: float
    problem_prompt: float
    judge_prompt: float
    origin: str
    """Where they are from."""
    work: float = 72.0
    """A step as the judge works it out (`judge.mode: shared`): as long as a step."""
    critique: float = 40.0
    """A critique of a candidate: one or two sentences."""
    tokens_per_search: float | None = None
    judge_per_search: float = 0.0
    """Those of ``tokens_per_search`` that the judge wrote, with all comparisons."""
    asked_share: float | None = None
    """Share of all comparisons that the run's newest search asked (`judge.comparisons: needed`)."""

    @property
    def solution(self) -> float:
        return self.steps * self.step


# arXiv 2503.03746: 8 steps lie between its GSM8K and MATH figures, 576 tokens are a 7B model's
# solution of a MATH problem (Tables 7 and 8); prompts and judgements are not reported.
PAPER = Lengths(8.0, 72.0, 300.0, 200.0, 900.0, "the paper's figures and our guesses")


def lengths_of(config: Config) -> Lengths:
    """The lengths to plan with: as measured on the run's newest complete evaluation, else in the rows of
    its IFT and EFT sources by the model's tokenizer, else the paper's."""
    lengths = rows_lengths(config)
    complete = [
        planned
        for planned in planned_stages(RunDirectory(config))
        if planned.kind == "evaluate" and planned.model != "M0" and planned.stage.is_complete
    ]
    searched = [
        p.stage.manifest for p in planned_stages(RunDirectory(config)) if p.kind == "search"
    ]
    for manifest in filter(None, searched):
        lengths = replace(lengths, asked_share=manifest.get("asked_share"))
    for planned in complete[-1:]:
        facts: dict[str, Any] = planned.stage.manifest or {}
        if not facts.get("steps_per_solution"):
            continue
        lengths = replace(
            lengths,
            steps=facts["steps_per_solution"],
            step=facts["tokens_per_step"],
            tokens_per_search=(facts.get("test_time") or {}).get("search_tokens"),
            judge_per_search=judge_per_search(facts.get("search") or {}),
            origin=f"the evaluation of {planned.model}",
        )
    return lengths


def judge_per_search(figures: Mapping[str, Any]) -> float:
    """The judge's tokens a search, by the figures of an evaluation."""
    return (figures.get("num_judge_tokens") or 0) / max(figures.get("num_searches") or 0, 1)


def rows_lengths(config: Config) -> Lengths:
    """Lengths in the first rows of the IFT and EFT sources; the paper's where they cannot be read."""
    data, model = config.data, config.model
    files = [source.path or "" for source in (data.ift, data.eft) if source.kind == "file"]
    here = is_url(model.base) or model_location(model.base).is_dir()
    if config.sft is None or not here or not all(location(path).is_file() for path in files):
        return PAPER
    try:
        tokenizer = load_tokenizer(model.base, trust_remote_code=model.trust_remote_code)
        prompts = PromptBuilder(tokenizer, config.prompts)
        failures = Failures()
        few = {"num": SAMPLE}
        solved = ift_rows(data.ift.model_copy(update=few), config.seed, failures)
        judged = pair_rows(data.eft.model_copy(update=few), "eft", config.seed, failures)
    except PsrError:
        return PAPER

    def mean(values: list[int]) -> float:
        return sum(values) / max(len(values), 1)

    def part(name: str) -> float:
        return mean([len(tokenizer.encode(row[name])) for row in judged if row[name]])

    steps = mean([row["solution"].strip().count(prompts.stop) + 1 for row in solved])
    solution = mean([len(tokenizer.encode(row["solution"])) for row in solved])
    judge = judge_of(prompts, config.judge)
    judge_prompts = [
        judge.prompt(row["problem"], row["steps_so_far"], row["step_a"], row["step_b"])
        for row in judged
    ]
    return Lengths(
        steps=steps,
        step=solution / steps,
        judgement=mean([len(tokenizer.encode(row["judgement"])) for row in judged]),
        problem_prompt=mean([len(prompts.solve_ids(row["problem"])) for row in solved]),
        judge_prompt=mean([len(ids) for ids in judge_prompts]),
        work=part("work") or PAPER.work,
        critique=part("critique_a") or PAPER.critique,
        origin=f"{len(solved)} IFT and {len(judged)} EFT rows by the model's tokenizer",
    )
