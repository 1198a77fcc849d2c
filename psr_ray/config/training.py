"""Settings of SFT and step-DPO."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from psr_ray.config.base import Frozen, NonNegative, Positive, Probability


class LoraConfig(Frozen):
    rank: Positive = 16
    """Rank of the update matrices."""
    alpha: Positive = 32
    """Scale: the update is multiplied by alpha / rank."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get an update."""
    four_bit: bool = False
    """Hold the weights below the update in 4 bits (NF4, QLoRA, arXiv 2305.14314): a quarter of the
    memory, slower. The update is merged into the weights as they were, not as they were rounded. Needs
    `pip install bitsandbytes` and a ZeRO stage below 3."""


class TrainingConfig(Frozen):
    """Settings shared by SFT and step-DPO: the DeepSpeed loop under Ray Train."""

    lr: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate."""
    num_epochs: Annotated[float, Field(gt=0)] = 1
    """Passes over the rows; may be a fraction."""
    batch_size: Positive = 32
    """Rows of an optimizer step at most, over all workers; where an epoch does not divide by it, steps
    are smaller, and each row is still seen once an epoch (with `sft.ift_per_batch`: each EFT row)."""
    tokens_per_pass: Positive = 8192
    """Tokens of one forward pass of a worker, which holds several rows or searches side by side;
    accumulation makes up the rest. A search with more is cut where a step ends, its prefix repeated; a
    row or pair with more makes a pass of its own, so that this changes speed and memory alone (and, in
    bfloat16, rounding: gradients of several passes are summed in it, as is DeepSpeed's default)."""
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
    """Keep optimizer states in CPU memory (ZeRO 1-3): less GPU memory, slower. DeepSpeed compiles its
    own Adam for it, once a node, which needs a C++ compiler."""
    offload_parameters: bool = False
    """Keep the sharded weights in CPU memory, too (ZeRO 3)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    checkpoint_steps: Positive = 100
    """Optimizer steps between checkpoints: what a killed training loses at most."""
    lora: LoraConfig | None = None
    """Train a low-rank update and merge it on export; null trains all weights."""

    @model_validator(mode="after")
    def goes_with_its_zero_stage(self) -> TrainingConfig:
        for name, wanted, fits in (
            ("offload_optimizer", self.offload_optimizer, self.zero_stage >= 1),
            ("offload_parameters", self.offload_parameters, self.zero_stage == 3),
            ("lora.four_bit", self.lora is not None and self.lora.four_bit, self.zero_stage < 3),
        ):
            if wanted and not fits:
                raise ValueError(f"`{name}` does not go with `zero_stage` {self.zero_stage}")
        return self


class SFTConfig(TrainingConfig):
    num_epochs: Annotated[float, Field(gt=0)] = 3
    """Passes over the rows (paper: 3); may be a fraction."""
    ift_per_batch: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of IFT rows in each batch; null mixes as the rows come. IFT rows repeat or stay unused
    so that an epoch is one pass over the EFT rows."""


class DPOConfig(TrainingConfig):
    lr: Annotated[float, Field(gt=0)] = 5e-7
    """Peak learning rate (paper: 5e-7 for 7B and 72B; smaller models want more:
    docs/bring-your-model.md)."""
    beta: Annotated[float, Field(gt=0)] = 0.4
    """Strength of the pull to the reference (paper: not stated; Step-DPO uses 0.4-0.5)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of wrong labels (cDPO)."""
    length_normalization: bool = False
    """Divide each log-ratio by its number of tokens."""
    nll_weight: NonNegative = 0.0
    """Weight of the chosen step's NLL per token (arXiv 2404.19733: 1). 0 is the paper's loss."""
    schedule_over: Literal["round", "run"] = "round"
    """What `warmup_ratio` and `schedule` span: each round by itself (the paper's way, as its rounds are
    trainings of their own), or all rounds of the run, each with an equal part. Adam begins anew in each
    round either way."""
    solutions_per_batch: Annotated[int, Field(ge=0)] = 0
    """Complete solutions made of chosen steps, from finished searches, added to each batch with an SFT
    loss: they hold on to the steps on which all candidates agreed, which give no pair (compare the
    NLL over the full chosen response of arXiv 2404.19733). 0 is the paper's way."""
