"""Ways of judging: how two steps are put to a model, and how its answer is read (`judge.mode`).

A new way is a subclass of ``Judge``: in this file and in ``JUDGES``, or in a module of the user's own,
named in the config as ``module:name`` (docs/extending.md).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from psr_ray.config import JudgeConfig
from psr_ray.errors import PsrError
from psr_ray.method.generation import Completion, GenerationRequest, ModelRole
from psr_ray.method.prompts import PromptBuilder, Texts, TokenIds
from psr_ray.method.verdicts import Comparison, Verdict
from psr_ray.plugins import find
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


def parse_verdict(judgement: str) -> Verdict:
    """The verdict that ends a judgement; ``first_wins`` is None where none does."""
    match = FINAL_VERDICT.search(judgement)
    return Verdict(None if match is None else float(match[1] == "A"), judgement)


def parse_points(judgement: str) -> int | None:
    """The points, 0 to 5, that end a judgement (``Score: n``); None where there are none."""
    match = FINAL_POINTS.search(judgement)
    return None if match is None else int(match[1])


@dataclass(frozen=True)
class Judge(ABC):
    """One way of judging pairs of steps; ``role`` says which model answers."""

    prompts: PromptBuilder
    settings: JudgeConfig
    role: ModelRole = "policy"

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
        """Tokens whose probabilities are the verdict; empty where a judgement is sampled."""
        return ()

    def requests(
        self,
        problem: str,
        steps_so_far: Sequence[str],
        texts: Sequence[str],
        comparisons: Sequence[Comparison],
    ) -> list[GenerationRequest]:
        """A request for each comparison of two of the ``texts``, in order."""
        choice_ids = self.choice_ids
        return [
            GenerationRequest(
                prompt_ids=self.prompt(problem, steps_so_far, texts[c.first], texts[c.second]),
                num_samples=1,
                temperature=self.settings.temperature,
                top_p=1.0,
                max_tokens=self.max_tokens,
                choice_ids=choice_ids,
                role=self.role,
                purpose="judge",
                max_seconds=self.settings.max_seconds,
            )
            for c in comparisons
        ]


class ExplainJudge(Judge):
    """The paper's way (arXiv 2503.03746, 3.1): reasoning, then ``[[A]]`` or ``[[B]]`` at the end."""

    def prompt(
        self, problem: str, steps_so_far: Sequence[str], step_a: str, step_b: str
    ) -> TokenIds:
        texts = pair_texts(problem, steps_so_far, step_a, step_b)
        return self.prompts.judging_ids("judge", texts, thinking=self.settings.thinks)

    def read(self, completion: Completion) -> Verdict:
        answer = self.prompts.answer(completion.token_ids, thinking=self.settings.thinks)
        verdict = parse_verdict(answer.final)
        return Verdict(verdict.first_wins, answer.text, answer.num_thinking_tokens)

    def target(self, pair: JudgedPair) -> TokenIds:
        return self.prompts.encode(pair.judgement)


class VerdictJudge(Judge):
    """No reasoning: the prompt ends with ``[[``, the verdict is the probabilities of ``A`` and ``B``."""

    def prompt(
        self, problem: str, steps_so_far: Sequence[str], step_a: str, step_b: str
    ) -> TokenIds:
        texts = pair_texts(problem, steps_so_far, step_a, step_b)
        return self.prompts.judging_ids("verdict", texts, opening=VERDICT_OPENING)

    def read(self, completion: Completion) -> Verdict:
        chances = completion.choice_probabilities
        if not chances:
            return Verdict(None, self.prompts.decode(completion.token_ids))
        return Verdict(chances[0])

    def target(self, pair: JudgedPair) -> TokenIds:
        return self._after_opening(f"{pair.verdict}]]")

    @property
    def max_tokens(self) -> int:
        return 1

    @property
    def choice_ids(self) -> tuple[int, ...]:
        """The tokens of the letters A and B as they follow ``[[``."""
        return tuple(i for letter in "AB" for i in self._after_opening(letter)[:1])

    def _after_opening(self, text: str) -> TokenIds:
        """The ids of a text that follows ``[[``. Raises ``PsrError`` where its letter has no token of
        its own there."""
        opening = self.prompts.encode(VERDICT_OPENING)
        letter = self.prompts.encode(VERDICT_OPENING + text[0])
        ids = self.prompts.encode(VERDICT_OPENING + text)
        is_one_token = letter[:-1] == opening and ids[: len(letter)] == letter
        if not is_one_token:
            raise PsrError(
                f"model {self.prompts.tokenizer.name_or_path}: '[[{text[0]}' is not '[[' and one "
                "token in its vocabulary; use judge.mode: explain"
            )
        return ids[len(opening) :]


def pair_texts(problem: str, steps_so_far: Sequence[str], step_a: str, step_b: str) -> Texts:
    """Values of the templates `judge` and `verdict`."""
    return {"problem": problem, "steps_so_far": steps_so_far, "step_a": step_a, "step_b": step_b}


JUDGES = {"explain": ExplainJudge, "verdict": VerdictJudge}


def judge_class(settings: JudgeConfig) -> type[Judge]:
    """The class that `judge.mode` names. Raises ``PsrError`` where it is the user's and does not fit."""
    takes, methods = ("prompts", "settings", "role"), ("prompt", "requests", "read", "target")
    found: type[Judge] = find("judge.mode", settings.mode, JUDGES, takes, methods)
    return found


def judge_of(prompts: PromptBuilder, settings: JudgeConfig, role: ModelRole = "policy") -> Judge:
    """The judge that the config asks for."""
    return judge_class(settings)(prompts, settings, role)
