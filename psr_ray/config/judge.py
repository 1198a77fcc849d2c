"""Settings of the judge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from psr_ray.config.base import Frozen, NonNegative, Positive, own_or


class JudgeConfig(Frozen):
    mode: Annotated[str, own_or("explain", "verdict", "shared")] = "explain"
    """`explain`: reasoning, then [[A]] or [[B]], as in the paper. `verdict`: [[A]] or [[B]] at once, by
    the probabilities of the two letters. `shared`: the step is worked out once, then all comparisons see
    that text and answer as in `verdict`. `module:name`: a class of your own (docs/extending.md)."""
    verdicts: Literal["soft", "hard"] = "soft"
    """`soft`: the probability of A against B at the verdict's letter; after reasoning, given what was
    written. `hard`: the letter alone, 1 or 0 (the paper's)."""
    comparisons: Literal["needed", "all", "knockout"] = "needed"
    """Which pairs are compared when a search makes step preferences. `all`: every pair in both orders
    (the paper's way; evaluations always do). `needed`: until no open verdict can change best, worst or
    whether there is a preference: the same outcome, fewer requests. `knockout`: brackets for best and
    worst, both orders; fewer still, another outcome at times."""
    min_lead: NonNegative = 1.0
    """Standard errors by which the best candidate must lead the worst to make a preference, with soft
    verdicts; the standard error is what the two orders disagree by (docs/judging.md). 1: of two steps,
    both orders must name the same one. 0, and hard verdicts: any lead counts (the paper's rule)."""
    max_problem_tokens: Positive | None = None
    """Tokens that a judge may write for one problem's search, looked at between rounds of comparisons.
    Then the step in hand and all further ones are appended without a pair, the best by what was compared
    (without that, the most sampled). Null: no limit."""
    critiques: bool = False
    """`shared` alone: also a short critique of each candidate, written once and shown beside it."""
    temperature: NonNegative = 0.0
    """Sampling temperature of the judge (paper: not stated; 0 makes verdicts repeatable)."""
    max_tokens: Positive = 1024
    """Most tokens of a judgement; one that ends before its verdict counts as unparsable. With `shared`,
    of the step worked out, and of a critique; one that is cut off is used as it is, and counted."""
    max_thinking_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens that a judgement may have before that, between its model's thinking marks (`<think>`). With
    0 the chat template is asked for no thinking. Needs `sft: null`: EFT rows teach to judge without."""
    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Most seconds of a judgement, from its first token; one that is cut off there counts as unparsable,
    too. Null: no limit (with one, verdicts depend on how busy the engine is)."""
    max_points_tokens: Positive = 1024
    """Most tokens of the judgement of a complete solution (`method.ranking: points`)."""

    @model_validator(mode="after")
    def critiques_are_shared(self) -> JudgeConfig:
        if self.critiques and self.mode in ("explain", "verdict"):
            raise ValueError("`critiques` goes with `mode: shared`")
        return self

    @property
    def thinks(self) -> bool:
        """Whether a judge may think before it answers."""
        return self.max_thinking_tokens > 0

    @property
    def most_tokens(self) -> int:
        """Most tokens that a judge writes at a time, its thinking included; `verdict` takes one."""
        return 1 if self.mode == "verdict" else self.max_tokens + self.max_thinking_tokens

    @property
    def lead(self) -> float:
        """Standard errors by which the best must lead the worst: none with hard verdicts."""
        return 0.0 if self.verdicts == "hard" else self.min_lead

    @property
    def most_points_tokens(self) -> int:
        """Most tokens of the judgement of a complete solution, its thinking included."""
        return self.max_points_tokens + self.max_thinking_tokens
