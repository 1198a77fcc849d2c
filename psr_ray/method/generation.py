"""Requests of a search to an engine, and their completions; independent of any engine."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

# Which model answers: the one that searches, or the judge beside it (`method.judge`): M1 or an average.
ModelRole = Literal["policy", "judge"]
# The purpose of a request: steps and solutions, and what a judge does: the step worked out and each
# candidate criticised (`judge.mode: shared`), then comparisons (or points).
Purpose = Literal["solve", "work", "critique", "compare"]


@dataclass(frozen=True)
class GenerationRequest:
    """``num_samples`` completions of one prompt.

    With ``choice_ids`` the completion carries the log-probabilities of these tokens where the last of
    them stands; with ``max_tokens`` 1, as the next token whatever is sampled.
    """

    prompt_ids: tuple[int, ...]
    num_samples: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: str | None = None
    choice_ids: tuple[int, ...] = ()
    role: ModelRole = "policy"
    purpose: Purpose = "solve"
    draw: int = 0
    """How often this prompt may have been sampled from before: another draw, other samples."""
    max_seconds: float | None = None
    """Seconds from its first token after which a completion is cut off (``num_samples`` 1)."""


Finish = Literal["eos", "stop", "length", "time"]


@dataclass(frozen=True)
class Completion:
    """One completion: the sampled ids (EOS included where the model ended) and why it stopped.

    ``choice_logprobs`` are those of the request's ``choice_ids`` at the token ``choice_place``; empty
    where none of them was sampled."""

    token_ids: tuple[int, ...]
    finish: Finish
    choice_logprobs: tuple[float, ...] = ()
    choice_place: int = 0
    num_cached_tokens: int = 0


@dataclass
class Usage:
    """Tokens that a task has used so far: generated ones by the purpose of their requests."""

    num_sampled_tokens: int = 0
    num_work_tokens: int = 0
    num_critique_tokens: int = 0
    num_compare_tokens: int = 0
    num_thinking_tokens: int = 0
    """Those of the judge's tokens that stand between thinking marks."""
    num_cut_texts: int = 0
    """Texts of the judge that were cut off at their limit, or are empty."""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0

    @property
    def num_judge_tokens(self) -> int:
        """All that the judge wrote."""
        return self.num_work_tokens + self.num_critique_tokens + self.num_compare_tokens

    def add(self, request: GenerationRequest, completions: Sequence[Completion]) -> None:
        """Add the completions of a request."""
        num = sum(len(completion.token_ids) for completion in completions)
        match request.purpose:
            case "solve":
                self.num_sampled_tokens += num
            case "work":
                self.num_work_tokens += num
            case "critique":
                self.num_critique_tokens += num
            case "compare":
                self.num_compare_tokens += num
        if request.purpose != "solve" and request.max_tokens > 1:
            self.num_cut_texts += sum(c.finish in ("length", "time") for c in completions)
        self.num_prompt_tokens += len(request.prompt_ids) * len(completions)
        self.num_cached_tokens += sum(c.num_cached_tokens for c in completions)


Result = TypeVar("Result")

# A coroutine: yields requests, is sent the completions of each, returns its result.
EngineTask = Generator[list[GenerationRequest], list[list[Completion]], Result]
