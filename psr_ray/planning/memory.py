"""GPU memory of engines and training workers, and settings that do not fit (docs/planning.md)."""

from __future__ import annotations

from dataclasses import dataclass

from psr_ray.config import Config, TrainingConfig
from psr_ray.errors import PsrError
from psr_ray.planning.model import ModelShape
from psr_ray.training.average import MEANS_KEPT

GIB = 2**30
# Taken by CUDA's context, NCCL's buffers and fragmentation, on every GPU.
RESERVE_GIB = 3.0
# Held by an engine that sleeps: CUDA's context and graphs (assumed, not measured).
ASLEEP_GIB = 3.0
# Bytes an activation takes per token and layer, in units of hidden size × width: what a decoder layer
# with FlashAttention keeps for its backward pass (Korthikanti et al., arXiv 2205.05198, section 4.1,
# with a gated MLP); with checkpointing only a layer's input is kept, and one layer's activations.
ACTIVATION_UNITS = 17
# Tokens whose logits a training worker has at the same time (psr_ray/training/logprobs.py).
SCORED_AT_ONCE = 256
# Bytes of a weight in 4 bits: NF4 with doubly rounded scales (arXiv 2305.14314, section 3: 0.127 bits a
# weight beside the four).
FOUR_BIT = 4.127 / 8


@dataclass(frozen=True)
class TrainingMemory:
    """GiB on one worker's GPU."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    host: float
    """GiB of the node's own memory for each worker (offloaded optimizer states and weights)."""

    @property
    def total(self) -> float:
        parts = (self.weights, self.gradients, self.optimizer, self.activations, self.logits)
        return sum(parts) + RESERVE_GIB


def lora_parameters(shape: ModelShape, training: TrainingConfig) -> int:
    """Parameters of a low-rank update of all linear layers."""
    assert training.lora is not None
    q, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    sides = (
        2 * (shape.hidden + q) + 2 * (shape.hidden + kv) + 3 * (shape.hidden + shape.intermediate)
    )
    return training.lora.rank * sides * shape.layers


def training_memory(shape: ModelShape, training: TrainingConfig) -> TrainingMemory:
    """Memory of a training worker: ZeRO 1 shards the optimizer, 2 also the gradients, 3 also the weights
    (Rajbhandari et al., arXiv 1910.02054, section 3)."""
    n, zero, width = training.num_workers, training.zero_stage, shape.width
    trained = shape.parameters if training.lora is None else lora_parameters(shape, training)
    weights = shape.weight_bytes / (n if zero >= 3 else 1)
    if training.lora is not None and training.lora.four_bit:
        weights = shape.weight_bytes / shape.width * FOUR_BIT
    gradients = trained * width / (n if zero >= 2 else 1)
    # 16-bit weights: Adam's two moments and the 32-bit copy; 32-bit ones: the two moments
    states = trained * (8 if width == 4 else 12) / (n if zero >= 1 else 1)
    on_host = states / GIB if training.offload_optimizer else 0.0
    if training.offload_parameters:
        on_host += weights / GIB
        weights = 0.0
    tokens, unit = training.tokens_per_pass, shape.hidden * shape.width
    layer = ACTIVATION_UNITS * unit + 3 * shape.intermediate * shape.width
    kept = shape.layers * unit + layer if training.gradient_checkpointing else shape.layers * layer
    gathered = 0.0
    if (
        zero >= 3
    ):  # this layer and the next, or the output head; an export gathers a parameter at a time
        head = shape.vocabulary * shape.hidden * width
        gathered = max(2 * shape.weight_bytes / shape.layers, head)
    return TrainingMemory(
        weights=(weights + gathered) / GIB,
        gradients=gradients / GIB,
        optimizer=0.0 if training.offload_optimizer else states / GIB,
        activations=tokens * kept / GIB,
        # a chunk's logits, their gradient and two steps between, in 32 bits
        logits=4 * min(tokens, SCORED_AT_ONCE) * shape.vocabulary * 4 / GIB,
        host=on_host,
    )


def checkpoint_gib(shape: ModelShape, training: TrainingConfig) -> tuple[float, float]:
    """A checkpoint's size, and that of the largest part, which one worker writes: weights, Adam's two
    moments and, of 16-bit weights, the 32-bit copy; of what is trained."""
    trained = shape.parameters if training.lora is None else lora_parameters(shape, training)
    weights, states = trained * shape.width / GIB, trained * (8 if shape.width == 4 else 12) / GIB
    n, zero = training.num_workers, training.zero_stage
    part = weights / (n if zero >= 3 else 1) + states / (n if zero >= 1 else 1)
    return weights + states, part


def models_on_disk(config: Config) -> tuple[int, int, int]:
    """How many models a run makes, keeps, and has at most: an old one goes when the round of the new one
    has ended."""
    first = 0 if config.sft is None else 1
    made = first + config.num_iterations
    kept = made if config.keep_models is None else min(made, first + config.keep_models)
    return made, kept, min(made, kept + 1)


def means_on_disk(config: Config) -> int:
    """How many means of models there are at most: old ones go when a new one is made."""
    made = max(config.num_iterations - 1, 0) if config.method.judge == "average" else 0
    return min(made, MEANS_KEPT + 1)


def most_on_disk(config: Config, shape: ModelShape) -> float:
    """GiB of a run's models, means and checkpoints while it trains, at most. Rows are small beside."""
    _, _, most = models_on_disk(config)
    weights = shape.weight_bytes / GIB
    trainings = config.trainings().values()
    checkpoint = max(checkpoint_gib(shape, training)[0] for training in trainings)
    # an export with ZeRO-3 has the model twice for a moment
    gathered = weights if any(training.zero_stage == 3 for training in trainings) else 0.0
    return (most + means_on_disk(config)) * weights + max(2 * checkpoint, checkpoint + gathered)


@dataclass(frozen=True)
class EngineMemory:
    """GiB on each GPU of an engine, and what its KV cache holds."""

    weights: float
    cache: float
    num_tokens: int

    def sequences(self, length: int) -> int:
        """Sequences of a length that the cache holds at once, none of them sharing a prefix."""
        return self.num_tokens // length


def engine_memory(shape: ModelShape, config: Config, gpu_gib: float) -> EngineMemory:
    """Memory of an engine: what ``gpu_memory_utilization`` leaves beside the weights is KV cache.

    Weights and cache are divided over the engine's GPUs (KV heads at least once each)."""
    engine, num_models = config.engine, 2 if config.method.other_judges else 1
    gpus = max(engine.tensor_parallel_size, 1)
    weights = shape.weight_bytes / gpus / GIB
    cache = engine.kv_cache_gib
    if cache is None:
        activations = 1.0  # of one step of vLLM's, beside the weights
        cache = gpu_gib * engine.gpu_memory_utilization / num_models - weights - activations
    split = min(gpus, shape.kv_heads)
    return EngineMemory(weights, cache, max(0, int(cache * GIB * split / shape.kv_bytes)))


def check_fits(config: Config, shape: ModelShape, gpu_gib: float) -> None:
    """Raises ``PsrError`` for the first part of a run that a GPU of ``gpu_gib`` GiB cannot hold.

    It names the setting to change."""
    engine = engine_memory(shape, config, gpu_gib)
    if config.engine.tensor_parallel_size and engine.num_tokens < config.model.max_length:
        raise PsrError(
            f"an engine's GPU of {gpu_gib:g} GiB holds {engine.weights:.1f} GiB of weights and "
            f"{max(engine.cache, 0):.1f} GiB of KV cache, {engine.num_tokens:,} tokens: fewer than "
            f"model.max_length {config.model.max_length}; raise engine.tensor_parallel_size (now "
            f"{config.engine.tensor_parallel_size}) or engine.gpu_memory_utilization"
        )
    for name, training in config.trainings().items():
        memory = training_memory(shape, training)
        num_asleep = (1 + config.method.other_judges) if config.engine.shares_gpus else 0
        free = gpu_gib - num_asleep * ASLEEP_GIB
        if training.use_gpu and memory.total > free:
            beside = f" beside an engine that sleeps ({gpu_gib - free:g})" if free < gpu_gib else ""
            raise PsrError(
                f"{name}: a worker needs {memory.total:.1f} GiB of a GPU's {gpu_gib:g} GiB{beside} "
                f"(weights {memory.weights:.1f}, gradients {memory.gradients:.1f}, optimizer "
                f"{memory.optimizer:.1f}, activations {memory.activations:.1f}, logits "
                f"{memory.logits:.1f}, reserve {RESERVE_GIB:g}); "
                f"{remedy(name, training, memory, free)}"
            )


def remedy(name: str, training: TrainingConfig, memory: TrainingMemory, gpu_gib: float) -> str:
    """The setting that helps most."""
    if training.zero_stage < 3:
        return f"set {name}.zero_stage to 3 (now {training.zero_stage})"
    if not training.gradient_checkpointing and memory.activations > gpu_gib / 4:
        return f"set {name}.gradient_checkpointing to true"
    if memory.activations > gpu_gib / 2:
        return f"lower {name}.tokens_per_pass (now {training.tokens_per_pass})"
    if (
        training.zero_stage == 3
        and memory.weights > gpu_gib / 2
        and not training.offload_parameters
    ):
        return f"set {name}.offload_parameters to true, or raise {name}.num_workers"
    if memory.optimizer > gpu_gib / 4 and not training.offload_optimizer:
        return f"set {name}.offload_optimizer to true, or raise {name}.num_workers"
    return f"raise {name}.num_workers (now {training.num_workers})"
