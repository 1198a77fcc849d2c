"""Settings of the vLLM engines and their pool."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from psr_ray.config.base import Frozen, Positive, Probability, Share


class EngineConfig(Frozen):
    num_engines: tuple[Positive, Positive] = (1, 1)
    """Least and most vLLM engines; the pool grows from one to the other as there is work and room."""
    layout: Literal["restart", "colocated", "apart"] = "restart"
    """During training engines end (``restart``: they start again for each model), sleep on the cores
    or GPUs that training uses (``colocated``), or have their own (``apart``). The last two load each
    model in place, prove it, and keep the training workers, too. On GPUs ``colocated`` takes as many
    engines as training workers, of one GPU each, and its workers start for each training; the weights
    of an engine that sleeps are in its node's memory."""
    max_idle_s: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds of a training after which engines that wait for its end are given back; they start again
    for the next stage. Not in ``restart``, nor on GPUs that the training uses."""
    cpus_per_engine: Positive = 1
    """CPU cores of an engine, half of them reserved in ``colocated``; without a GPU, its threads."""
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
    """Finished searches written together, as one Parquet file; a crash costs fewer than these, and those
    in flight."""
    max_rows_in_flight: Positive = 512
    """Searches an engine works on at once; the next ones start as these end."""
    hang_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds without a step of the engine after which it counts as hung and its process is ended; a
    problem in flight in two such engines fails."""

    seeded_sampling: bool = False
    """Seed every request by its prompt: what a problem samples then depends on no other problem and on
    no number of engines (up to rounding). vLLM samples such requests one by one: slower on GPU; on CPU
    chunked prefill is then off."""
    max_failed_share: Share = 0.5
    """Share of a stage's rows that may fail (a problem that is too long, or kills its engine)
    before the stage does."""

    @model_validator(mode="after")
    def cpu_needs_cache_size(self) -> EngineConfig:
        if self.tensor_parallel_size == 0 and self.kv_cache_gib is None:
            raise ValueError(
                "`kv_cache_gib` must be set where `tensor_parallel_size` is 0 (CPU): "
                "vLLM would take nearly all memory"
            )
        return self

    @model_validator(mode="after")
    def colocated_engines_have_one_gpu(self) -> EngineConfig:
        if self.shares_gpus and self.tensor_parallel_size > 1:
            raise ValueError(
                "`layout: colocated` needs `tensor_parallel_size` 0 or 1: Ray gives parts of a GPU only "
                "to a process that takes no more than one; take `restart` or `apart`"
            )
        return self

    @property
    def shares_gpus(self) -> bool:
        """Whether engines sleep on GPUs while training uses them."""
        return self.layout == "colocated" and self.tensor_parallel_size > 0

    @property
    def keeps_workers(self) -> bool:
        """Whether training workers stay from training to training: not where engines on their GPUs get
        all of the memory back."""
        return self.layout != "restart" and not self.shares_gpus
