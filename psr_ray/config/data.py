"""Settings of the data stage: where problems and judged rows come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import model_validator

from psr_ray.config.base import Frozen, Positive, Share, own_or


class SourceConfig(Frozen):
    """Where rows come from: the embedded arithmetic, a file, or a function of your own."""

    kind: Annotated[str, own_or("arithmetic", "file")] = "arithmetic"
    """`arithmetic` draws from the embedded source, `file` reads `path`, `module:name` calls a function
    of your own (docs/extending.md)."""
    path: str | None = None
    """JSONL or Parquet; problems need `problem` (or `question`), `answer` where it is known. With a
    function of your own, whatever it makes of it."""
    num: Positive = 1000
    """Rows to take, at most."""
    num_steps: tuple[Positive, Positive] = (3, 5)
    """Arithmetic only: least and most operations of a problem."""
    highest_value: Positive = 99
    """Arithmetic only: largest value that a problem reaches."""
    slip_share: Share = 0.0
    """Arithmetic solutions only: share of carries and borrows that they forget."""
    split: Literal["dev"] | None = None
    """Arithmetic problems only: `dev` takes problems of the development split, to tune settings by
    without touching the held-out ones; null: those of the source's own split."""
    seed: int | None = None
    """Seed of this source; null takes the run's. Runs with several seeds can share one test set."""

    def seed_in(self, run_seed: int) -> int:
        """The seed of this source in a run with a seed."""
        return run_seed if self.seed is None else self.seed

    @model_validator(mode="after")
    def path_goes_with_file(self) -> SourceConfig:
        if self.kind in ("arithmetic", "file") and (self.kind == "file") != (self.path is not None):
            raise ValueError("`path` and `kind: file` go together: give both or neither")
        if self.num_steps[0] > self.num_steps[1]:
            raise ValueError("`num_steps`: the least is above the most")
        return self


class DataConfig(Frozen):
    ift: SourceConfig = SourceConfig()
    """Problems solved in steps, for the first fine-tuning (paper: 28,889)."""
    eft: SourceConfig = SourceConfig()
    """Judged step pairs, for the first fine-tuning (paper: 4,179)."""
    eft_solutions: SourceConfig | None = None
    """Complete solutions with points, for the first fine-tuning of a model that is to judge whole
    solutions too (`method.ranking: points`); null: none."""
    train: tuple[SourceConfig, ...] = (SourceConfig(num=400),)
    """Problems to search, one entry an iteration; the last one serves all further iterations."""
    judge: SourceConfig | None = SourceConfig(num=250)
    """Fixed judged pairs for judge accuracy; null: not measured."""
    heldout: SourceConfig = SourceConfig(num=1000)
    """Problems for the final figures; touched once a model."""
    hard: SourceConfig | None = None
    """Held-out problems harder than any trained on, reported beside the others; null: none."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks that every model solves greedily: names (`gsm8k`, `math`, `math500`, `gaokao2023en`,
    `olympiadbench`, `aime24`, `amc23`; from the Hugging Face Hub) or files, called by their names."""
    decontaminate: bool = True
    """Leave out problems to learn from that share 13 words in a row (or all their words) with a problem
    of `benchmarks`, `heldout`, `hard` or `judge`; case, signs and blanks make no difference. Problems of
    the embedded source are kept apart by their numbers."""

    def sources(self) -> dict[str, SourceConfig]:
        """Every source by its key in the config."""
        lists = ("train", "benchmarks", "decontaminate")
        named = {name: getattr(self, name) for name in type(self).model_fields if name not in lists}
        named |= {f"train[{index}]": source for index, source in enumerate(self.train)}
        return {name: source for name, source in named.items() if source is not None}
