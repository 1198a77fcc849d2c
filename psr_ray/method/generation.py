"""Requests of a search to an engine, and their completions; independent of any engine."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

# Which model answers: the one that searches, or M1 as a frozen judge (`method.judge: first`).
ModelRole = Literal["policy", "first"]
# The purpose of a request, for traces.
Purpose = Literal["sample", "judge"]


@dataclass(frozen=True)
class GenerationRequest:
    """``num_samples`` completions of one prompt.

    With ``choice_ids`` nothing is sampled: the completion carries the probabilities of these
    tokens as the next one, scaled to add up to 1.
    """

    prompt_ids: tuple[int, ...]
    num_samples: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: str | None = None
    choice_ids: tuple[int, ...] = ()
    role: ModelRole = "policy"
    purpose: Purpose = "sample"
    draw: int = 0
    """How often this prompt may have been sampled from before: another draw, other samples."""
    max_seconds: float | None = None
    """Seconds from its first token after which a completion is cut off (``num_samples`` 1)."""


Finish = Literal["eos", "stop", "length", "time"]


@dataclass(frozen=True)
class Completion:
    """One completion: the sampled ids (EOS included where the model ended) and why it stopped."""

    token_ids: tuple[int, ...]
    finish: Finish
    choice_probabilities: tuple[float, ...] = ()
    num_cached_tokens: int = 0


@dataclass
class Usage:
    """Tokens that a task has used so far."""

    num_sampled_tokens: int = 0
    num_judge_tokens: int = 0
    num_thinking_tokens: int = 0
    """Those of the judge's tokens that stand between thinking marks."""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0

    def add_samples(self, request: GenerationRequest, completions: Sequence[Completion]) -> None:
        """Add sampled completions."""
        self.num_sampled_tokens += sum(len(c.token_ids) for c in completions)
        self._add_prompt(request, completions)

    def add_judgement(self, request: GenerationRequest, completions: Sequence[Completion]) -> None:
        """Add the tokens of judgements."""
        self.num_judge_tokens += sum(len(c.token_ids) for c in completions)
        self._add_prompt(request, completions)

    def _add_prompt(self, request: GenerationRequest, completions: Sequence[Completion]) -> None:
        self.num_prompt_tokens += len(request.prompt_ids) * len(completions)
        self.num_cached_tokens += sum(c.num_cached_tokens for c in completions)


Result = TypeVar("Result")

# A coroutine: yields requests, is sent the completions of each, returns its result.
EngineTask = Generator[list[GenerationRequest], list[list[Completion]], Result]
