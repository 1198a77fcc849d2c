"""Ways of judging: how two steps are put to a model, and how its answer is read (`judge.mode`).

A new way is a subclass of ``Judge``: in this file and in ``JUDGES``, or in a module of the user's own,
named in the config as ``module:name`` (docs/extending.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from psr_ray.config import JudgeConfig
from psr_ray.errors import PsrError
from psr_ray.method.generation import (
    Completion,
    EngineTask,
    GenerationRequest,
    ModelRole,
    Purpose,
    Usage,
)
from psr_ray.method.judge import VERDICT_OPENING, Judge, Notes, parse_verdict, probability
from psr_ray.method.prompts import PromptBuilder, Texts, TokenIds
from psr_ray.method.verdicts import Comparison, Verdict
from psr_ray.plugins import find
from psr_ray.problems import JudgedPair

REST_OF_VERDICT = re.compile(r"[AB]\]\]\W*")


class ExplainJudge(Judge):
    """The paper's way (arXiv 2503.03746, 3.1): reasoning, then ``[[A]]`` or ``[[B]]`` at the end."""

    def prompt(
        self, problem: str, steps_so_far: Sequence[str], step_a: str, step_b: str
    ) -> TokenIds:
        texts = pair_texts(problem, steps_so_far, step_a, step_b)
        return self.prompts.judging_ids("judge", texts, thinking=self.settings.thinks)

    @property
    def choice_ids(self) -> tuple[int, ...]:
        return () if self.settings.verdicts == "hard" else self.letter_ids

    def read(self, completion: Completion) -> Verdict:
        """The letter that ends the text; soft, its probability against the other letter there."""
        answer = self.prompts.answer(completion.token_ids, thinking=self.settings.thinks)
        letter, mass = parse_verdict(answer.final).first_wins, None
        if letter is not None and self.settings.verdicts == "soft":
            rest = self.prompts.decode(completion.token_ids[completion.choice_place :])
            found = probability(completion.choice_logprobs)
            if found is None or not REST_OF_VERDICT.fullmatch(rest):
                letter = None  # spelt in other tokens than its own: no probability, no verdict
            else:
                letter, mass = found
        return Verdict(letter, answer.text, answer.num_thinking_tokens, mass)

    def target(self, pair: JudgedPair) -> TokenIds:
        return self.prompts.encode(pair.judgement)


class VerdictJudge(Judge):
    """No reasoning: the prompt ends with ``[[``, the verdict is the probabilities of ``A`` and ``B``
    there (hard: the likelier one)."""

    def prompt(
        self, problem: str, steps_so_far: Sequence[str], step_a: str, step_b: str
    ) -> TokenIds:
        texts = pair_texts(problem, steps_so_far, step_a, step_b)
        return self.prompts.judging_ids("verdict", texts, opening=VERDICT_OPENING)

    def read(self, completion: Completion) -> Verdict:
        found = probability(completion.choice_logprobs)
        if found is None:
            return Verdict(None, self.prompts.decode(completion.token_ids))
        wins, mass = found
        if self.settings.verdicts == "hard":
            wins = 0.5 if wins == 0.5 else float(wins > 0.5)
        return Verdict(wins, mass=mass)

    def target(self, pair: JudgedPair) -> TokenIds:
        return self.after_opening(f"{pair.verdict}]]")

    @property
    def max_tokens(self) -> int:
        return 1

    @property
    def choice_ids(self) -> tuple[int, ...]:
        return self.letter_ids


class SharedJudge(VerdictJudge):
    """The step is worked out once, at temperature 0; every comparison sees that text as a common prefix
    and answers as ``VerdictJudge`` does. With `judge.critiques` each candidate also gets a critique."""

    def prepare(self, notes: Notes, texts: Sequence[str], usage: Usage, /) -> EngineTask[None]:
        if notes.work is None:
            thinks = self.settings.thinks
            prompt = self.prompts.judging_ids("work", self._state(notes), thinking=thinks)
            [notes.work] = yield from self._written([prompt], "work", usage, thinks=thinks)
        missing = [text for text in texts if text not in notes.critiques]
        if self.settings.critiques and missing:
            prompts = [self._critique_prompt(text, notes) for text in missing]
            written = yield from self._written(prompts, "critique", usage)
            notes.critiques.update(zip(missing, written, strict=True))

    def requests(
        self, notes: Notes, texts: Sequence[str], comparisons: Sequence[Comparison]
    ) -> list[GenerationRequest]:
        shown = ((texts[c.first], texts[c.second]) for c in comparisons)
        return [self.request(self._noted_prompt(a, b, notes), "compare") for a, b in shown]

    def prompt(
        self, problem: str, steps_so_far: Sequence[str], step_a: str, step_b: str
    ) -> TokenIds:
        """The prompt of a comparison without its notes, for estimates of its length."""
        return self._noted_prompt(step_a, step_b, Notes(problem, steps_so_far))

    def lessons(self, pair: JudgedPair) -> list[tuple[TokenIds, TokenIds]]:
        """The step worked out, critiques where they are asked for, and the verdict. Raises ``PsrError``
        where the pair comes without them."""
        critiques = {pair.step_a: pair.critique_a, pair.step_b: pair.critique_b}
        if not self.settings.critiques:
            critiques = {}
        if not all([pair.work, *critiques.values()]):
            raise PsrError(
                f"EFT row {pair.problem.id}: no `work`"
                + (" or no critiques" if critiques else "")
                + ", which judge.mode shared teaches; make the rows by build_seed.py eft "
                "(docs/seed-data.md), or set judge.mode explain"
            )
        notes = Notes(pair.problem.text, pair.steps_so_far, pair.work, critiques)
        asked = [(self.prompts.judging_ids("work", self._state(notes)), pair.work)]
        asked += [(self._critique_prompt(step, notes), said) for step, said in critiques.items()]
        found = [(prompt, self.prompts.encode(said)) for prompt, said in asked]
        verdict = self._noted_prompt(pair.step_a, pair.step_b, notes)
        return [*found, (verdict, self.target(pair))]

    def _written(
        self, prompts: Sequence[TokenIds], purpose: Purpose, usage: Usage, *, thinks: bool = False
    ) -> EngineTask[list[str]]:
        """Texts of the judge, at temperature 0, without the thinking before them."""
        requests = [self.request(prompt, purpose) for prompt in prompts]
        answers = yield requests
        found = []
        for request, completions in zip(requests, answers, strict=True):
            usage.add(request, completions)
            answer = self.prompts.answer(completions[0].token_ids, thinking=thinks)
            usage.num_thinking_tokens += answer.num_thinking_tokens
            # one that is nothing, or nothing but thinking, is as bad as one that is cut off
            usage.num_cut_texts += completions[0].finish == "eos" and not answer.final.strip()
            found.append(answer.final)
        return found

    def _state(self, notes: Notes) -> Texts:
        return {"problem": notes.problem, "steps_so_far": notes.steps_so_far}

    def _worked(self, notes: Notes) -> list[tuple[str, str]]:
        """The question for the step, and the step worked out: the beginning of the conversation."""
        return [(self.prompts.judging_text("work", self._state(notes)), notes.work or "")]

    def _critique_prompt(self, step: str, notes: Notes) -> TokenIds:
        return self.prompts.judging_ids("critique", {"step": step}, after=self._worked(notes))

    def _noted_prompt(self, step_a: str, step_b: str, notes: Notes) -> TokenIds:
        texts = compared_texts(step_a, step_b, notes.critiques)
        after = self._worked(notes)
        return self.prompts.judging_ids("shared", texts, opening=VERDICT_OPENING, after=after)


def pair_texts(problem: str, steps_so_far: Sequence[str], step_a: str, step_b: str) -> Texts:
    """Values of the templates `judge` and `verdict`."""
    return {"problem": problem, "steps_so_far": steps_so_far, "step_a": step_a, "step_b": step_b}


def compared_texts(step_a: str, step_b: str, critiques: Mapping[str, str]) -> Texts:
    """Values of the template `shared`; without critiques they are empty."""
    return {
        "step_a": step_a,
        "step_b": step_b,
        "critique_a": critiques.get(step_a, "").strip(),
        "critique_b": critiques.get(step_b, "").strip(),
    }


JUDGES = {"explain": ExplainJudge, "verdict": VerdictJudge, "shared": SharedJudge}


def judge_class(settings: JudgeConfig) -> type[Judge]:
    """The class that `judge.mode` names. Raises ``PsrError`` where it is the user's and does not fit."""
    takes = ("prompts", "settings", "role")
    methods = ("prompt", "prepare", "requests", "read", "target", "lessons")
    found: type[Judge] = find("judge.mode", settings.mode, JUDGES, takes, methods)
    return found


def judge_of(prompts: PromptBuilder, settings: JudgeConfig, role: ModelRole = "policy") -> Judge:
    """The judge that the config asks for."""
    return judge_class(settings)(prompts, settings, role)
