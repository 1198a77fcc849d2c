"""Settings of seed data, in a run or by `jobs/build_seed.py`: sources, who writes, what is kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from psr_ray.config.base import Frozen, NonNegative, Positive, Probability
from psr_ray.config.data import SourceConfig


class EndpointConfig(Frozen):
    url: str
    """Base address of an OpenAI-compatible server, such as `http://teacher:8000/v1`."""
    model: str
    """The model's name at that server."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key, on the node that asks; without it no key is sent."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Seconds for one answer, after which it is asked for again."""
    max_retries: Annotated[int, Field(ge=0)] = 3
    """Times that a request is repeated (time-outs, 429, 5xx), ever more slowly, before its row fails."""
    max_requests: Positive = 16
    """Requests in flight at once."""


class IFTDataConfig(Frozen):
    """IFT rows: worked solutions, divided into steps."""

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    """Problems with `solution`, of each `num` drawn by chance."""
    divide_by: Literal["rule", "model"] = "rule"
    """`rule`: at ends of lines or sentences. `model`: by `endpoint`, else by `model.base`."""
    max_steps: Annotated[int, Field(ge=2)] = 20
    """Most steps of a solution; one with more is left out."""


class EFTDataConfig(Frozen):
    """EFT rows: pairs of next steps, judged."""

    problems: tuple[SourceConfig, ...] = ()
    """Problems with answers, to be searched; of each `num` drawn by chance."""
    prm800k: tuple[SourceConfig, ...] = ()
    """Labelled steps in PRM800K's form, of each the first `num` records."""
    model: str | None = None
    """Who searches; null: `model.base`."""
    judge: str | None = None
    """Who judges where there is no `endpoint`; null: who searches."""

    @model_validator(mode="after")
    def has_a_source(self) -> EFTDataConfig:
        if not self.problems and not self.prm800k:
            raise ValueError("`problems` or `prm800k` must name a source")
        return self


class SeedDataConfig(Frozen):
    """IFT and EFT data from real problems (docs/seed-data.md)."""

    ift: IFTDataConfig | None = None
    """The run makes its IFT rows: `data.ift: {kind: seed}` reads them; null: it does not."""
    eft: EFTDataConfig | None = None
    """The run makes its EFT rows: `data.eft: {kind: seed}` reads them, `data.judge: {kind: seed}` those
    that were set aside; null: it does not."""
    endpoint: EndpointConfig | None = None
    """A stronger teacher that divides solutions and judges pairs; null: a local model does."""
    num_rollouts: Positive = 8
    """Solutions sampled from each candidate; the share that ends right is its value (paper: a trained
    PRM instead)."""
    temperature: NonNegative = 0.7
    """Sampling temperature of candidates and rollouts (paper: 0.7)."""
    top_p: Probability = 0.95
    """Nucleus mass of candidates and rollouts (paper: 0.95)."""
    min_gap: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Least difference of value between the best and the worst candidate of a pair (paper: not
    stated). With 8 rollouts a value's standard error is up to 0.18, a gap's up to 0.25."""
    max_tokens: Positive = 2048
    """Most tokens of a divided solution, or of a judgement."""
    num_test: Annotated[int, Field(ge=0)] = 500
    """Judged pairs set aside to measure judge accuracy, by problem (paper: 500); never more than a
    fifth of all."""
