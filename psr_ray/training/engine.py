"""The policy under DeepSpeed."""

from __future__ import annotations

import importlib.util
from collections import Counter
from typing import Any

import deepspeed
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations import HfDeepSpeedConfig

from psr_ray.config import TrainingConfig
from psr_ray.errors import PsrError
from psr_ray.storage.locations import local_copy
from psr_ray.training.attention import register_attention
from psr_ray.training.deepspeed_internals import (
    keep_four_bit_weights,
    load_cpu_adam,
    skip_shared_memory_op,
)
from psr_ray.training.job import TrainingJob
from psr_ray.training.logprobs import PackScorer


def deepspeed_config(training: TrainingConfig, dtype: str) -> dict[str, Any]:
    """DeepSpeed's settings for ours. The loop itself marks the end of a step: the number of forward
    passes differs from step to step."""
    zero: dict[str, Any] = {"stage": training.zero_stage}
    if training.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if training.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == "bfloat16"},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": training.lr,
                "betas": list(training.betas),
                "weight_decay": training.weight_decay,
                "torch_adam": not training.offload_optimizer,
            },
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def load_model(job: TrainingJob, *, four_bit: bool = False) -> Any:
    """The model to train. Raises ``PsrError`` where 4 bits are asked for without bitsandbytes."""
    dtype = getattr(torch, job.config.model.dtype)
    quantization = None
    if four_bit:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise PsrError(
                f"{job.kind}.lora.four_bit needs `pip install bitsandbytes` on every node"
            )
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    device = {"": torch.cuda.current_device()} if four_bit and job.training.use_gpu else None
    model = AutoModelForCausalLM.from_pretrained(
        local_copy(job.model),
        dtype=dtype,
        trust_remote_code=job.config.model.trust_remote_code,
        use_safetensors=True,
        attn_implementation=register_attention(),
        quantization_config=quantization,
        device_map=device,
    )
    if four_bit:
        keep_four_bit_weights(model)
    return model


def check_merging(model: Any, *, is_sharded: bool) -> None:
    """Raises ``PsrError`` where a LoRA's update could not be merged into the weights in the end: of a
    weight that another layer has, too, and, with ZeRO-3, of what is no plain layer (the experts of a
    mixture)."""
    uses = Counter(id(value) for _, value in model.named_parameters(remove_duplicate=False))
    for name, layer in model.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        name = name.removeprefix("base_model.model.")
        weight = getattr(layer.get_base_layer(), "weight", None)
        if weight is not None and uses[id(weight)] > 1:
            raise PsrError(
                f"lora.target_modules: {name} shares its weights with another layer (tied embeddings); "
                "name layers without it"
            )
        if is_sharded and (weight is None or isinstance(layer.base_layer, BaseTunerLayer)):
            raise PsrError(
                f"lora.target_modules: an update of {name} cannot be merged with zero_stage 3; name "
                "layers without it, or take zero_stage 2"
            )


def build_engine(job: TrainingJob) -> tuple[Any, Any]:
    """DeepSpeed's engine, which scores packs with the policy, and the policy itself."""
    training = job.training
    if not training.use_gpu:
        skip_shared_memory_op()
    settings = deepspeed_config(training, job.config.model.dtype)
    # With ZeRO-3 this must exist while the model is loaded: it then loads shard by shard.
    keep = HfDeepSpeedConfig(settings) if training.zero_stage == 3 else None
    torch.manual_seed(job.config.seed)
    model = load_model(job, four_bit=training.lora is not None and training.lora.four_bit)
    if training.gradient_checkpointing:
        # ZeRO-3 gathers weights by hooks that only the reentrant kind runs again
        reentrant = training.zero_stage == 3
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant and training.lora is not None:
            model.enable_input_require_grads()
    if training.lora is not None:
        targets = training.lora.target_modules
        model = get_peft_model(
            model,
            LoraConfig(
                r=training.lora.rank,
                lora_alpha=training.lora.alpha,
                lora_dropout=0.0,
                target_modules=targets if isinstance(targets, str) else list(targets),
                task_type="CAUSAL_LM",
            ),
        )
        check_merging(model, is_sharded=training.zero_stage == 3)
    if training.offload_optimizer:
        load_cpu_adam()
    engine, *_ = deepspeed.initialize(
        model=PackScorer(model),
        model_parameters=[p for p in model.parameters() if p.requires_grad],
        config=settings,
    )
    engine.train()
    del keep
    return engine, model
