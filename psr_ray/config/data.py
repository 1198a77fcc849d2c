"""Settings of the data stage: where problems and judged rows come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from psr_ray.config.base import Frozen, Positive, Share, own_or


class SourceConfig(Frozen):
    """Where rows come from: the embedded arithmetic, a file, or a function of your own."""

    kind: Annotated[str, own_or("arithmetic", "file", "hub", "seed")] = "arithmetic"
    """`arithmetic` draws from the embedded source, `file` and `hub` read what `path` names, `seed` (of
    `ift`, `eft`, `judge`) reads what the run makes by `seed_data`, `module:name` calls a function of
    your own (docs/extending.md)."""
    path: str | None = None
    """File: JSON lines or CSV (also as .gz), Parquet, a folder written by `save_to_disk`, or a glob of
    files. Hub: a dataset's id, or `gsm8k`, `math`, `numinamath`, `numinamath-cot`, `openr1-math`,
    `deepscaler`; for labelled steps `prm800k`. Problems need `problem` (or `question`), `answer` where
    it is known. With a function of your own, whatever it makes of it."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Their names of columns by ours, such as `{problem: prompt, answer: target}`."""
    config: str | None = None
    """Hub only: the dataset's configuration; null takes its default."""
    revision: str | None = None
    """Hub only: a commit, tag or branch; null takes the newest. The manifest of the data stage has the
    commit that was read."""
    num: Positive = 1000
    """Rows to take, at most: drawn by chance for `train`, `heldout` and `hard`, else the first."""
    num_steps: tuple[Positive, Positive] = (3, 5)
    """Arithmetic only: least and most operations of a problem."""
    highest_value: Positive = 99
    """Arithmetic only: largest value that a problem reaches."""
    slip_share: Share = 0.0
    """Arithmetic solutions only: share of carries and borrows that they forget."""
    split: str | None = None
    """Hub: the dataset's split, null is `train`. Arithmetic problems: `dev` takes those of the
    development split, to tune settings by without touching the held-out ones; null: the source's own."""
    seed: int | None = None
    """Seed of this source; null takes the run's, and 0 where held-out problems are drawn from a file or
    the Hub: runs with several seeds share one test set."""

    def seed_in(self, run_seed: int) -> int:
        """The seed of this source in a run with a seed."""
        return run_seed if self.seed is None else self.seed

    @model_validator(mode="after")
    def settings_go_with_the_kind(self) -> SourceConfig:
        if self.kind in ("arithmetic", "file", "hub", "seed"):
            if (self.kind in ("arithmetic", "seed")) == (self.path is not None):
                raise ValueError(
                    "`path` goes with `kind: file` or `kind: hub`: give both or neither"
                )
            if self.kind != "hub" and (self.config or self.revision):
                raise ValueError("`config` and `revision` go with `kind: hub`")
        is_dev = (self.kind, self.split) == ("arithmetic", "dev")
        if self.split is not None and self.kind != "hub" and not is_dev:
            raise ValueError("`split` goes with `kind: hub`, or is `dev` for embedded problems")
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
