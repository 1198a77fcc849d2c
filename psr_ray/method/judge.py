"""What all ways of judging have in common: requests, texts that end with a verdict, probabilities."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from psr_ray.config import JudgeConfig
from psr_ray.errors import PsrError
from psr_ray.method.generation import (
    Completion,
    EngineTask,
    GenerationRequest,
    ModelRole,
    Purpose,
    Result,
    Usage,
)
from psr_ray.method.prompts import PromptBuilder, TokenIds
from psr_ray.method.verdicts import Comparison, Verdict
from psr_ray.problems import JudgedPair

FINAL_VERDICT = re.compile(r"\[\[([AB])\]\]\W*$")
FINAL_POINTS = re.compile(r"Score: ([0-5])\W*$")
VERDICT_OPENING = "[["


class JudgementTooLong(Exception):
    """Candidates that leave no room for a judgement of them."""


def check_room(requests: Sequence[GenerationRequest], max_length: int) -> None:
    """Raises ``JudgementTooLong`` where a prompt and its judgement exceed ``max_length`` tokens."""
    longest = max(requests, key=lambda request: len(request.prompt_ids) + request.max_tokens)
    if len(longest.prompt_ids) + longest.max_tokens > max_length:
        raise JudgementTooLong(
            f"a judge's prompt of {len(longest.prompt_ids)} tokens + {longest.max_tokens} for the "
            f"judgement > max_length {max_length}"
        )


def with_room(task: EngineTask[Result], max_length: int) -> EngineTask[Result]:
    """The task, each of its requests checked for room."""
    answers = None
    while True:
        try:
            requests = next(task) if answers is None else task.send(answers)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        check_room(requests, max_length)
        answers = yield requests


def parse_verdict(judgement: str) -> Verdict:
    """The verdict that ends a judgement; ``first_wins`` is None where none does."""
    match = FINAL_VERDICT.search(judgement)
    return Verdict(None if match is None else float(match[1] == "A"), judgement)


def parse_points(judgement: str) -> int | None:
    """The points, 0 to 5, that end a judgement (``Score: n``); None where there are none."""
    match = FINAL_POINTS.search(judgement)
    return None if match is None else int(match[1])


def probability(logprobs: Sequence[float]) -> tuple[float, float] | None:
    """The probability of A against B, and of both together, from their log-probabilities. None where
    there are none, or both letters have probability zero: then there is no verdict."""
    if not logprobs:
        return None
    a, b = map(math.exp, logprobs)
    return (a / (a + b), a + b) if a + b > 0 else None


@dataclass
class Notes:
    """What a judge compares candidates by: the problem and the steps so far; and with `judge.mode:
    shared` what it has written before: the step worked out, a critique of each candidate by its text."""

    problem: str
    steps_so_far: Sequence[str]
    work: str | None = None
    critiques: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Judge(ABC):
    """One way of judging pairs of steps; ``role`` says which model answers."""

    prompts: PromptBuilder
    settings: JudgeConfig
    role: ModelRole = "policy"

    def prepare(self, _notes: Notes, _texts: Sequence[str], _usage: Usage, /) -> EngineTask[None]:
        """Write into the notes what comparisons of the texts need and is not there yet; most judges need
        nothing."""
        yield from ()

    @abstractmethod
    def prompt(
        self, problem: str, steps_so_far: Sequence[str], step_a: str, step_b: str
    ) -> TokenIds:
        """The prompt that asks which of two next steps is better. What all comparisons of a step share
        should stand first: they then share a prefix of the KV cache."""

    @abstractmethod
    def read(self, completion: Completion) -> Verdict:
        """The verdict in a completion of that prompt."""

    @abstractmethod
    def target(self, pair: JudgedPair) -> TokenIds:
        """The completion that EFT teaches for a judged pair, without EOS."""

    @property
    def max_tokens(self) -> int:
        """Most tokens of a judgement."""
        return self.settings.most_tokens

    @property
    def choice_ids(self) -> tuple[int, ...]:
        """Tokens whose probabilities are asked for; empty where the text alone is the verdict."""
        return ()

    def lessons(self, pair: JudgedPair) -> list[tuple[TokenIds, TokenIds]]:
        """What EFT teaches by a judged pair: prompts and completions, without EOS."""
        prompt = self.prompt(pair.problem.text, pair.steps_so_far, pair.step_a, pair.step_b)
        return [(prompt, self.target(pair))]

    def requests(
        self, notes: Notes, texts: Sequence[str], comparisons: Sequence[Comparison]
    ) -> list[GenerationRequest]:
        """A request for each comparison of two of the ``texts``, in order."""
        shown = ((texts[c.first], texts[c.second]) for c in comparisons)
        prompts = (self.prompt(notes.problem, notes.steps_so_far, a, b) for a, b in shown)
        return [self.request(prompt, "compare") for prompt in prompts]

    def request(self, prompt_ids: TokenIds, purpose: Purpose) -> GenerationRequest:
        """A request for a verdict, or with another purpose for a text."""
        compares, longest = purpose == "compare", self.settings.max_tokens
        if purpose == "work":
            longest = self.settings.most_tokens  # it may think first
        return GenerationRequest(
            prompt_ids=prompt_ids,
            num_samples=1,
            temperature=self.settings.temperature if compares else 0.0,
            top_p=1.0,
            max_tokens=self.max_tokens if compares else longest,
            choice_ids=self.choice_ids if compares else (),
            role=self.role,
            purpose=purpose,
            max_seconds=self.settings.max_seconds,
        )

    @cached_property
    def letter_ids(self) -> tuple[int, ...]:
        """The tokens of the letters A and B as they follow ``[[``."""
        return tuple(i for letter in "AB" for i in self.after_opening(letter)[:1])

    def after_opening(self, text: str) -> TokenIds:
        """The ids of a text that follows ``[[``. Raises ``PsrError`` where its letter has no token of
        its own there."""
        opening = self.prompts.encode(VERDICT_OPENING)
        letter = self.prompts.encode(VERDICT_OPENING + text[0])
        ids = self.prompts.encode(VERDICT_OPENING + text)
        is_one_token = letter[:-1] == opening and ids[: len(letter)] == letter
        if not is_one_token:
            raise PsrError(
                f"model {self.prompts.tokenizer.name_or_path}: '[[{text[0]}' is not '[[' and one "
                "token in its vocabulary; use judge.mode explain with judge.verdicts hard"
            )
        return ids[len(opening) :]
