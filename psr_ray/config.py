"""The whole run as frozen pydantic models. Unknown keys are errors; imports nothing heavy.

A setting the paper (arXiv 2503.03746) leaves open says so and gives its default's reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(gt=0, le=1)]


class Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelConfig(Frozen):
    base: str
    """Folder (or Hub id) of M0 in Hugging Face format."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number type of engine and training; float32 on CPU (bfloat16 has no fast path on AVX2)."""
    max_length: Positive = 4096
    """Longest sequence in tokens, prompt and completion together."""
    trust_remote_code: bool = False
    """Run code that comes with the model folder. Off: weights are data."""


class SourceConfig(Frozen):
    """Where rows come from: the embedded arithmetic, or a file."""

    kind: Literal["arithmetic", "file"] = "arithmetic"
    """`arithmetic` draws from the embedded source, `file` reads `path`."""
    path: str | None = None
    """JSONL or Parquet; problems need `problem` (or `question`), `answer` where it is known."""
    num: Positive = 1000
    """Rows to take, at most."""
    num_steps: tuple[Positive, Positive] = (3, 5)
    """Arithmetic only: least and most operations of a problem."""
    slip_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Arithmetic IFT only: share of carries and borrows that the written solutions forget."""

    @model_validator(mode="after")
    def path_goes_with_file(self) -> SourceConfig:
        if (self.kind == "file") != (self.path is not None):
            raise ValueError("`path` and `kind: file` go together: give both or neither")
        if self.num_steps[0] > self.num_steps[1]:
            raise ValueError("`num_steps`: the least is above the most")
        return self


class DataConfig(Frozen):
    ift: SourceConfig = SourceConfig()
    """Problems solved in steps, for the first fine-tuning (paper: 28,889)."""
    eft: SourceConfig = SourceConfig()
    """Judged step pairs, for the first fine-tuning (paper: 4,179)."""
    train: tuple[SourceConfig, ...] = (SourceConfig(num=400),)
    """Problems to search, one entry an iteration; the last one serves all further iterations."""
    judge: SourceConfig | None = SourceConfig(num=250)
    """Fixed judged pairs for judge accuracy; null: not measured."""
    heldout: SourceConfig = SourceConfig(num=1000)
    """Problems for the final figures; touched once a model."""


class PromptConfig(Frozen):
    templates: str = "paper"
    """`paper` (the paper's structure, for chat and base models), `compact` (tiny model), a folder."""
    chat_template: bool = True
    """Wrap prompts in the tokenizer's chat template; false for base models."""
    step_stop: str = "\nStep "
    """Text at which a step ends. Leading newlines belong to the step, the rest does not."""


class SearchConfig(Frozen):
    num_candidates: Annotated[int, Field(ge=2)] = 6
    """w: candidates for each step (paper: 6)."""
    temperature: NonNegative = 0.5
    """Sampling temperature of candidates (paper: 0.5)."""
    top_p: Probability = 0.95
    """Nucleus mass of candidates (paper: 0.95)."""
    max_steps: Positive = 20
    """Most steps of a search (paper: 20)."""
    max_step_tokens: Positive = 512
    """Most tokens of a step; a candidate cut off there has not ended."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 3
    """Rollbacks allowed in a search before it ends (paper: only the cap on steps)."""
    when_all_identical: Literal["accept", "rollback"] = "accept"
    """All candidates the same text: append it without a pair, or treat it as a tie. The paper's
    rule read literally rolls back; that would punish certainty, so we accept."""
    tie_break: Literal["most_sampled", "first"] = "most_sampled"
    """Which of several best (or worst) candidates is taken (paper: not stated)."""


class JudgeConfig(Frozen):
    mode: Literal["explain", "verdict"] = "explain"
    """`explain`: reasoning, then [[A]] or [[B]], as in the paper. `verdict`: probabilities of the
    two verdict tokens, no reasoning."""
    temperature: NonNegative = 0.0
    """Sampling temperature of the judge (paper: not stated; 0 makes verdicts repeatable)."""
    max_tokens: Positive = 1024
    """Most tokens of a judgement; one that ends before its verdict counts as unparsable."""


class EngineConfig(Frozen):
    num_engines: tuple[Positive, Positive] = (1, 1)
    """Least and most vLLM engines; the pool grows and shrinks between them."""
    cpus_per_engine: Positive = 1
    """CPU cores reserved for an engine."""
    tensor_parallel_size: Annotated[int, Field(ge=0)] = 1
    """GPUs of an engine, within one node; 0 runs it on CPU."""
    max_num_seqs: Positive = 256
    """Sequences decoded at once; more raise throughput and KV cache use."""
    kv_cache_gib: Annotated[float, Field(gt=0)] | None = None
    """KV cache in GiB; null leaves it to gpu_memory_utilization. Required on CPU."""
    gpu_memory_utilization: Probability = 0.9
    """Share of GPU memory the engine may use."""
    enforce_eager: bool = False
    """Skip graph capture: starts faster, decodes slower on GPU."""
    rows_per_shard: Positive = 16
    """Searches finished together, as one Parquet file: what a crash can cost at most, an engine."""
    max_rows_in_flight: Positive = 512
    """Searches an engine works on at once."""

    @model_validator(mode="after")
    def cpu_needs_cache_size(self) -> EngineConfig:
        if self.tensor_parallel_size == 0 and self.kv_cache_gib is None:
            raise ValueError(
                "`kv_cache_gib` must be set where `tensor_parallel_size` is 0 (CPU): "
                "vLLM would take nearly all memory"
            )
        return self


class LoraConfig(Frozen):
    rank: Positive = 16
    """Rank of the update matrices."""
    alpha: Positive = 32
    """Scale: the update is multiplied by alpha / rank."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get an update."""


class TrainingConfig(Frozen):
    """What SFT and step-DPO share: the DeepSpeed loop under Ray Train."""

    lr: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate."""
    num_epochs: Annotated[float, Field(gt=0)] = 1
    """Passes over the rows; may be a fraction."""
    batch_size: Positive = 32
    """Rows of an optimizer step, over all workers."""
    micro_batch_size: Positive = 1
    """Rows of one forward pass of a worker; accumulation makes up the rest."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of steps with rising learning rate (paper: not stated; Step-DPO uses 0.1)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate after warm-up (paper: not stated; Step-DPO uses cosine)."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Last learning rate as a share of the peak."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """Adam's decay rates."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    num_workers: Positive = 1
    """Ray Train workers; with GPUs, one GPU each."""
    cpus_per_worker: Positive = 1
    """CPU cores of a worker; on CPU also its threads."""
    use_gpu: bool = True
    """Train on GPUs."""
    zero_stage: Literal[0, 1, 2, 3] = 3
    """DeepSpeed ZeRO stage: 0 keeps all on each worker, 3 shards weights, gradients, optimizer."""
    offload_optimizer: bool = False
    """Keep optimizer states in CPU memory (ZeRO 1-3): less GPU memory, slower."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    lora: LoraConfig | None = None
    """Train a low-rank update and merge it on export; null trains all weights."""


class SFTConfig(TrainingConfig):
    ift_per_batch: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of IFT rows in each batch; null mixes as the rows come. IFT rows repeat or stay unused
    so that an epoch is one pass over the EFT rows."""


class DPOConfig(TrainingConfig):
    beta: Annotated[float, Field(gt=0)] = 0.4
    """Strength of the pull to the reference (paper: not stated; Step-DPO uses 0.4-0.5)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of wrong labels (cDPO)."""
    length_normalization: bool = False
    """Divide each log-ratio by its number of tokens."""
    nll_weight: NonNegative = 0.0
    """Weight of the chosen step's NLL per token (arXiv 2404.19733: 1). 0 is the paper's loss."""
    solutions_per_batch: Annotated[int, Field(ge=0)] = 0
    """Whole solutions made of chosen steps, from finished searches, added to each batch with an SFT
    loss: they hold on to the steps on which all candidates agreed, which give no pair (compare the
    NLL over the whole chosen response of arXiv 2404.19733). 0 is the paper's way."""


class EvaluationConfig(Frozen):
    max_tokens: Positive = 2048
    """Most tokens of a greedy solution."""
    num_search_problems: Positive = 200
    """Fresh problems the last model searches, to measure its judge on its own steps; the other
    models' figures come from their iteration's search."""


class Config(Frozen):
    """One run: M0, fine-tuning to M1, iterations to M(n+1), evaluation of each, report."""

    name: str
    """Name of the run; its folder is `runs_dir`/`name`."""
    runs_dir: str = "runs"
    """Where runs live; shared storage on a cluster."""
    seed: int = 0
    """Seed of data, initial order and sampling."""
    num_iterations: Annotated[int, Field(ge=0)] = 3
    """Rounds of search, step preferences, step-DPO, evaluation (paper: 3)."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    prompts: PromptConfig = PromptConfig()
    search: SearchConfig = SearchConfig()
    judge: JudgeConfig = JudgeConfig()
    engine: EngineConfig = EngineConfig()
    sft: SFTConfig = SFTConfig(lr=1e-6, num_epochs=3)
    dpo: DPOConfig = DPOConfig(lr=5e-7)
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def fits_together(self) -> Config:
        for name, training in (("sft", self.sft), ("dpo", self.dpo)):
            per_pass = training.micro_batch_size * training.num_workers
            if training.batch_size % per_pass:
                raise ValueError(
                    f"`{name}.batch_size` ({training.batch_size}) must be a multiple of "
                    f"micro_batch_size × num_workers ({per_pass})"
                )
        if self.dpo.solutions_per_batch % self.dpo.num_workers:
            raise ValueError(
                f"`dpo.solutions_per_batch` ({self.dpo.solutions_per_batch}) must be a multiple of "
                f"`dpo.num_workers` ({self.dpo.num_workers})"
            )
        if self.search.max_step_tokens >= self.model.max_length:
            raise ValueError("`search.max_step_tokens` must be below `model.max_length`")
        if not self.data.train:
            raise ValueError("`data.train` must name at least one source")
        return self

    @property
    def run_dir(self) -> Path:
        return Path(self.runs_dir) / self.name

    def train_source(self, iteration: int) -> SourceConfig:
        """The problems of an iteration, counted from 1."""
        return self.data.train[min(iteration, len(self.data.train)) - 1]

    @property
    def model_names(self) -> list[str]:
        """M1 to M(num_iterations + 1)."""
        return [f"M{k}" for k in range(1, self.num_iterations + 2)]
