"""A run as frozen pydantic models. Unknown keys are errors; imports nothing heavy.

A setting the paper (arXiv 2503.03746) leaves open says so and gives its default's reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from psr_ray.config.base import Frozen, NonNegative, Positive, Probability
from psr_ray.config.data import DataConfig, SourceConfig
from psr_ray.config.engine import EngineConfig
from psr_ray.config.judge import JudgeConfig
from psr_ray.config.method import MethodConfig, RefreshConfig
from psr_ray.config.prompts import PromptConfig
from psr_ray.config.seed import SeedDataConfig
from psr_ray.config.training import DPOConfig, SFTConfig, TrainingConfig
from psr_ray.storage.locations import location


class ModelConfig(Frozen):
    base: str
    """Folder (or Hub id) of M0 in Hugging Face format."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number type of engine and training; float32 on CPU (bfloat16 has no fast path on AVX2, and the
    output head, in 32 bits all the same, takes longest there)."""
    max_length: Positive = 4096
    """Longest sequence in tokens, prompt and completion together."""
    trust_remote_code: bool = False
    """Run code that comes with the model folder. Off: weights are data."""


class SearchConfig(Frozen):
    num_candidates: Annotated[int, Field(ge=2)] = 6
    """w: candidates for each step (paper: 6)."""
    temperature: NonNegative = 0.5
    """Sampling temperature of candidates (paper: 0.5)."""
    top_p: Probability = 0.95
    """Nucleus mass of candidates (paper: 0.95)."""
    max_steps: Positive = 20
    """Most rounds of a search: each samples and ranks candidates for a step, and those that end in a
    rollback count, too (paper: 20, its "max iteration number")."""
    max_step_tokens: Positive = 512
    """Most tokens of a step; a candidate cut off there has not ended."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 3
    """Rollbacks allowed in a search before it ends (paper: only the cap on steps)."""
    when_all_identical: Literal["accept", "rollback"] = "accept"
    """All candidates the same step (the same text, whatever its tokens): append it without a pair, or
    drop the step before it, whatever `when_tied` says. The paper's rule read literally rolls back; that
    would punish certainty, so we accept."""
    tie_break: Literal["most_sampled", "first"] = "most_sampled"
    """Which of several best (or worst) candidates is taken (paper: not stated)."""
    when_tied: Literal["rollback", "append"] | None = None
    """A step whose candidates the judge cannot tell apart: drop the step before it and search on from
    there (the paper's rule), or append one of them, as `tie_break` has it, without a pair. Null:
    `rollback` with hard verdicts; `append` with soft ones (`judge.verdicts`), where going back for lack
    of evidence could go on for ever."""


class EvaluationConfig(Frozen):
    max_tokens: Positive = 2048
    """Most tokens of a complete solution."""
    num_search_problems: Positive = 200
    """Held-out problems that every model searches with its own pairwise judge, whatever the method:
    its judge on its own steps, and step search at test time."""
    num_samples: Positive = 8
    """Solutions sampled for each of those problems: pass@8, distinct answers, majority vote."""
    num_probes: Annotated[int, Field(ge=0)] = 100
    """Steps of M1's searches that every later model ranks again, its own step among them: agreement
    of rankings, self-reward against true reward. 0: not measured."""
    best_of: bool = False
    """Have the model compare the sampled solutions of a problem pairwise and take the best (best-of-k by
    its own judge): up to num_samples × (num_samples - 1) judgements a problem. With `judge.mode:
    shared` as in `verdict`: there is no one step to work out."""
    num_benchmark_problems: Positive | None = None
    """Problems of each of `data.benchmarks`, at most; null: all."""
    search_benchmarks: bool = False
    """Search and sample the first `num_search_problems` of each benchmark, too."""


class TelemetryConfig(Frozen):
    """Telemetry beside the run's folder (docs/cluster.md, "Watch it")."""

    logs: Literal["text", "json"] = "text"
    """`text`: warnings. `json`: each finished problem, stage and optimizer step, too, as a line of JSON
    with run, iteration, stage and problem id; in Ray's log files and the output of a job."""
    num_traces: Annotated[int, Field(ge=0)] = 1
    """Searches whose rounds of requests each engine times and keeps, a stage (`psr-ray trace`)."""
    wandb: str | None = None
    """Project at Weights & Biases that gets the figures of trainings and evaluations, too; key and mode
    by W&B's own variables (`WANDB_API_KEY`, `WANDB_MODE=offline`). Null: none. Needs `wandb`."""
    mlflow: str | None = None
    """Address of an MLflow server that gets them, too (`http://…`); sign-in by MLflow's own variables.
    Null: none. Needs `mlflow-skinny` or `mlflow`. TensorBoard is always written."""


class Config(Frozen):
    """One run: M0, fine-tuning to M1, iterations to M(n+1), evaluation of each, report."""

    name: str
    """Name of the run; its folder is `runs_dir`/`name`."""
    runs_dir: str = "runs"
    """Where runs live: a folder, which on a cluster every node mounts, or a URL (`s3://bucket/runs`)."""
    shared_dir: str | None = None
    """Folder of another run whose data, M1 and evaluation of M1 are this run's too, where their
    settings agree (`psr-ray compare`: the methods of a seed start from one M1); null: none."""
    resources_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds that a stage waits for its CPUs and GPUs (nodes that are still starting, other work on
    the cluster) before the run ends with what it asked for and what is free."""
    seed: int = 0
    """Seed of data, initial order and sampling."""
    num_iterations: Annotated[int, Field(ge=0)] = 3
    """Rounds of search, step preferences, step-DPO, evaluation (paper: 3)."""
    evaluate_every: Positive = 1
    """Evaluate every so many rounds, and after the last one. M1 always is."""
    keep_models: Positive | None = None
    """How many of the newest models keep their weights, beside M1; null: all. Rows and figures of the
    others stay. To redo a round whose model is gone, redo those before it, too (`--force`)."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    prompts: PromptConfig = PromptConfig()
    search: SearchConfig = SearchConfig()
    judge: JudgeConfig = JudgeConfig()
    method: MethodConfig = MethodConfig()
    refresh: RefreshConfig | None = None
    """What the judge learns from the run's own steps; null: nothing (the paper's way)."""
    engine: EngineConfig = EngineConfig()
    sft: SFTConfig | None = SFTConfig()
    """The first fine-tuning, which makes M1 from `model.base`. Null: `model.base` is M1, such as a model
    that follows instructions; `data.ift` and `data.eft` are then not read."""
    dpo: DPOConfig = DPOConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    seed_data: SeedDataConfig = SeedDataConfig()

    @model_validator(mode="after")
    def fits_together(self) -> Config:
        for name, training in self.trainings().items():
            if training.tokens_per_pass < self.model.max_length:
                raise ValueError(
                    f"`{name}.tokens_per_pass` ({training.tokens_per_pass}) must be at least "
                    f"`model.max_length` ({self.model.max_length}): the longest row needs as many"
                )
        if self.search.max_step_tokens >= self.model.max_length:
            raise ValueError("`search.max_step_tokens` must be below `model.max_length`")
        lengths = {"max_tokens": self.judge.most_tokens}
        if self.method.ranking == "points":
            lengths["max_points_tokens"] = self.judge.most_points_tokens
        for name, length in lengths.items():
            if length >= self.model.max_length:
                raise ValueError(
                    f"`judge.{name}` ({length}) must be below `model.max_length` "
                    f"({self.model.max_length}): a judgement needs its prompt beside it"
                )
        if self.judge.thinks and self.sft is not None:
            raise ValueError(
                "`judge.max_thinking_tokens` needs `sft: null`: EFT rows teach to judge without thinking"
            )
        compares_solutions = (self.method.unit, self.method.ranking) == ("solution", "pairwise")
        if compares_solutions and self.judge.mode == "shared":
            raise ValueError(
                "`judge.mode: shared` works out one step: not with `method.unit: solution`; take "
                "explain or verdict"
            )
        if self.engine.shares_gpus and (why := self.why_gpus_are_not_shared()):
            raise ValueError(f"`engine.layout: colocated` on GPUs needs {why}")
        if not self.data.train:
            raise ValueError("`data.train` must name at least one source")
        self._check_left_out()
        self._check_seed_data()
        if self.refresh is not None and self.judge.mode not in ("explain", "verdict"):
            raise ValueError("`refresh` needs `judge.mode` explain or verdict")
        if self.refresh is not None and self.method.unit == "solution":
            raise ValueError("`refresh` is for `method.unit: step`: EFT rows judge steps")
        if self.method.objective == "nll" and not self.dpo.nll_weight:
            raise ValueError("`method.objective: nll` needs a `dpo.nll_weight` above 0")
        return self

    def why_gpus_are_not_shared(self) -> str | None:
        """What is missing for engines and training workers to share GPUs one to one."""
        if self.engine.tensor_parallel_size != 1:
            return "engines of one GPU"
        for name, training in self.trainings().items():
            same = {*self.engine.num_engines, training.num_workers} == {training.num_workers}
            if not (same and training.use_gpu):
                least, most = self.engine.num_engines
                return (
                    "as many engines as training workers, on GPUs all of them: `engine.num_engines` is "
                    f"[{least}, {most}], `{name}.num_workers` {training.num_workers}, `{name}.use_gpu` "
                    f"{str(training.use_gpu).lower()}"
                )
        return None

    def _check_left_out(self) -> None:
        """Raises ``ValueError`` where a source that is left out, and so is the embedded arithmetic,
        would stand beside the user's own."""
        own = [name for name, source in self.sources().items() if source.kind != "arithmetic"]
        names = ("heldout", "judge", *(("ift", "eft") if self.sft is not None else ()))
        names = names if self.num_iterations == 0 else ("train", *names)
        missing = [f"`data.{name}`" for name in names if name not in self.data.model_fields_set]
        if own and missing:
            raise ValueError(
                f"{', '.join(missing)}: not set, beside a `data.{own[0]}` of your own; name a source "
                "for each (`{kind: arithmetic}`: the embedded problems; `judge: null`: none)"
            )

    def _check_seed_data(self) -> None:
        """Raises ``ValueError`` where rows are made that nothing reads, or read that nothing makes."""
        makers = {"ift": "ift", "eft": "eft", "judge": "eft"}
        of_seed = {name for name, source in self.data.sources().items() if source.kind == "seed"}
        for name in sorted(of_seed):
            maker = makers.get(name)
            if maker is None:
                raise ValueError(
                    f"`data.{name}`: `kind: seed` is for `ift`, `eft` and `judge` alone"
                )
            if getattr(self.seed_data, maker) is None or self.sft is None:
                raise ValueError(
                    f"`data.{name}.kind: seed` needs `seed_data.{maker}`, and an `sft`"
                )
        for name, source in self.seed_sources().items():
            if source.kind in ("arithmetic", "seed"):
                raise ValueError(
                    f"`seed_data.{name}`: `kind` must be file, hub or your own function"
                )
        if "judge" in of_seed and not self.seed_data.num_test:
            raise ValueError("`data.judge.kind: seed` needs a `seed_data.num_test` above 0")
        for name in ("ift", "eft"):
            if getattr(self.seed_data, name) is not None and name not in of_seed:
                raise ValueError(
                    f"`seed_data.{name}` makes rows that nothing reads: set `data.{name}.kind: seed`"
                )

    def trainings(self) -> dict[str, TrainingConfig]:
        """The settings of the run's kinds of training, by their key in the config."""
        found = {} if self.sft is None else {"sft": self.sft}
        return found | {"dpo": self.dpo}

    def sources(self) -> dict[str, SourceConfig]:
        """The data sources that the run reads, by their keys under `data`."""
        unread = ("ift", "eft", "eft_solutions") if self.sft is None else ()
        return {name: s for name, s in self.data.sources().items() if name not in unread}

    def seed_sources(self) -> dict[str, SourceConfig]:
        """The sources that the run makes seed data from, by their keys under `seed_data`."""
        ift, eft = self.seed_data.ift, self.seed_data.eft
        named = {"ift.sources": ift.sources} if ift is not None else {}
        if eft is not None:
            named |= {"eft.problems": eft.problems, "eft.prm800k": eft.prm800k}
        return {f"{name}[{i}]": s for name, group in named.items() for i, s in enumerate(group)}

    @property
    def run_dir(self) -> Path:
        """The run's folder, absolute or in a store."""
        return location(self.runs_dir).absolute() / self.name

    def train_source(self, iteration: int) -> SourceConfig:
        """The problems of an iteration, counted from 1."""
        return self.data.train[min(iteration, len(self.data.train)) - 1]

    @property
    def when_tied(self) -> Literal["rollback", "append"]:
        """What follows a step that gives no preference."""
        is_soft = self.method.ranking == "pairwise" and self.judge.verdicts == "soft"
        return self.search.when_tied or ("append" if is_soft else "rollback")

    def as_measured(self) -> Config:
        """The config by which every model is measured: with its own pairwise judge, whatever the
        method, and the full round robin, so that flips and ties are those of all pairs."""
        whole = {"comparisons": "all", "max_problem_tokens": None}
        judge = self.judge.model_copy(update=whole)
        plain = {"method": MethodConfig(), "refresh": None}
        return self.model_copy(update=plain | {"judge": judge})

    def in_iteration(self, iteration: int) -> Config:
        """The config as an iteration sees it: in the first one the policy is M1, so M1 judging
        (``method.judge`` first or average) is the policy judging."""
        if iteration > 1 or self.method.judge == "policy":
            return self
        method = self.method.model_copy(update={"judge": "policy"})
        return self.model_copy(update={"method": method})

    @property
    def model_names(self) -> list[str]:
        """M0, where it is fine-tuned, then M1 to M(num_iterations + 1)."""
        first = 1 if self.sft is None else 0
        return [f"M{k}" for k in range(first, self.num_iterations + 2)]
