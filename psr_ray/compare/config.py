"""Settings of `psr-ray compare`: one base run, several methods, several seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from psr_ray.compare.expectations import Expectation
from psr_ray.config import Config, Frozen
from psr_ray.config.file import describe_errors, load_config, read_yaml
from psr_ray.errors import PsrError

Overrides = dict[str, Any]


class CompareConfig(Frozen):
    """A comparison. The first method is the one the others are set against; per seed it runs first,
    and the others take its data, its M1 and whatever else agrees."""

    name: str
    """Name of the comparison: its runs are `runs_dir`/`name`/METHOD-seed-N."""
    base: str
    """Config file of the run that all share."""
    overrides: Annotated[Overrides, Field(default_factory=dict)]
    """Settings of all runs that differ from the base: `search.num_candidates: 6`."""
    methods: Annotated[dict[str, Overrides], Field(min_length=1)]
    """The methods by name, each with the settings in which it differs: `method.ranking: random`."""
    differences: tuple[tuple[str, str], ...] = ()
    """Pairs of methods whose difference is wanted; without any, the first method's to each other one."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    """Seeds, declared before anything runs; none is dropped."""
    expected: tuple[Expectation, ...] = ()
    """What the figures should show, written down before anything runs; the page begins with it."""
    parallel_runs: Annotated[int, Field(gt=0)] = 1
    """Runs done at once on the cluster."""
    results_dir: str = "results"
    """Where the small records of finished runs are stored; commit this folder."""
    page: str | None = None
    """Results page to write, its figures in a folder beside it; null: `results_dir`/`name`.md."""

    @field_validator("seeds")
    @classmethod
    def seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is given twice")
        return seeds

    @model_validator(mode="after")
    def differences_are_of_methods(self) -> CompareConfig:
        for name in {name for pair in self.differences for name in pair} - set(self.methods):
            raise ValueError(f"`differences`: {name!r} is none of `methods`")
        keys = list(self.differences_by_key)
        if len(keys) < len(self.differences) or any(len({*pair}) < 2 for pair in self.differences):
            raise ValueError("`differences`: a pair is given twice, or is of one method")
        return self

    @property
    def differences_by_key(self) -> dict[str, tuple[str, str]]:
        """The pairs of methods to set against each other, by what their figures begin with."""
        others = [(self.reference, name) for name in self.methods if name != self.reference]
        pairs = self.differences or others
        return {f"{one}_minus_{other}".replace("-", "_"): (one, other) for one, other in pairs}

    @property
    def reference(self) -> str:
        """The method the others are set against."""
        return next(iter(self.methods))

    def run_name(self, method: str, seed: int) -> str:
        """Name of a run: its folder, and its record's file."""
        return f"{method}-seed-{seed}"

    def record(self, method: str, seed: int) -> Path:
        """File of a run's stored record."""
        return self.records / f"{self.run_name(method, seed)}.json"

    @property
    def records(self) -> Path:
        """Folder of the stored records."""
        return Path(self.results_dir) / self.name

    @property
    def evidence(self) -> Path:
        """The comparison's figures."""
        return Path(self.results_dir) / f"{self.name}.json"

    @property
    def results_page(self) -> Path:
        """The page about them."""
        return Path(self.page) if self.page else self.evidence.with_suffix(".md")


def load_comparison(path: str | Path) -> CompareConfig:
    """Read a comparison's YAML; ``PsrError`` names the file and the key of a mistake."""
    try:
        return CompareConfig.model_validate(read_yaml(Path(path)))
    except ValidationError as error:
        raise PsrError(f"config {path}: {describe_errors(error)}") from error


@dataclass(frozen=True)
class PlannedRun:
    """One method with one seed."""

    method: str
    seed: int
    config: Config
    record: Path


def assignments(values: Mapping[str, Any]) -> list[str]:
    """Overrides as ``key=value``; YAML reads the value back unchanged."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def planned_runs(comparison: CompareConfig) -> Iterator[PlannedRun]:
    """All runs: the reference method's for every seed first, then method by method."""
    shared = load_config(comparison.base, assignments(comparison.overrides))
    folder = Path(shared.runs_dir) / comparison.name
    for method, settings in comparison.methods.items():
        for seed in comparison.seeds:
            name = comparison.run_name(method, seed)
            own: Overrides = {"name": name, "seed": seed, "runs_dir": str(folder)}
            if method != comparison.reference:
                own["shared_dir"] = str(folder / comparison.run_name(comparison.reference, seed))
            config = load_config(
                comparison.base, assignments(comparison.overrides | settings | own)
            )
            yield PlannedRun(method, seed, config, comparison.record(method, seed))
