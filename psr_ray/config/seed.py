"""Settings of `jobs/build_seed.py`: who writes, how steps are valued, what is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from psr_ray.config.base import Frozen, NonNegative, Positive, Probability


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


class SeedDataConfig(Frozen):
    """IFT and EFT data from real problems (docs/seed-data.md); a run does not read these."""

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
