"""What one training worker does: load the policy, build the batches, train, export M(k+1)."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from psr_ray.config import Config, DPOConfig, SFTConfig, TrainingConfig
from psr_ray.errors import PsrError
from psr_ray.progress import ProgressWriter
from psr_ray.prompts import PromptBuilder, load_tokenizer
from psr_ray.rows import read_rows, shards
from psr_ray.runs import write_text
from psr_ray.training.examples import (
    batches,
    eft_example,
    ift_example,
    mixed_batches,
    preference_example,
    within_length,
)

MODEL_FOLDER = "model"


@dataclass(frozen=True)
class TrainingJob:
    """All a worker needs to know; plain values, so that it travels to any node."""

    kind: Literal["sft", "dpo"]
    config: Config
    model: str
    stage: str
    run_dir: Path
    out: Path
    ift: Path
    eft: Path
    preferences: Path | None = None

    @property
    def training(self) -> TrainingConfig:
        return self.config.sft if self.kind == "sft" else self.config.dpo


def environment(training: TrainingConfig) -> dict[str, str]:
    """Environment of a training worker's process."""
    variables = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    if not training.use_gpu:
        variables |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(training.cpus_per_worker)}
    return variables


def train(job: TrainingJob) -> None:
    """Run by Ray Train on every worker, inside its process group."""
    import torch
    import torch.distributed as dist

    from psr_ray.training import loop
    from psr_ray.training.metrics import MetricsWriter

    training = job.training
    rank = dist.get_rank() if dist.is_initialized() else 0
    num_workers = dist.get_world_size() if dist.is_initialized() else 1
    if not training.use_gpu:
        torch.set_num_threads(training.cpus_per_worker)
    device = (
        torch.device("cuda", torch.cuda.current_device())
        if training.use_gpu
        else torch.device("cpu")
    )
    worker = loop.Worker(rank, num_workers, device)
    tokenizer = load_tokenizer(job.model, trust_remote_code=job.config.model.trust_remote_code)
    prompts = PromptBuilder(tokenizer, job.config.prompts)
    sft_examples, num_ift, sft_dropped = load_sft(job, prompts)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    micro = training.micro_batch_size
    seed = job.config.seed
    plan_sft: list[list[int]] = []
    plan_dpo: list[list[int]] = []
    pairs: list[Any] = []
    num_dropped = sft_dropped
    if isinstance(training, SFTConfig):
        plan_sft = mixed_batches(
            num_ift,
            len(sft_examples) - num_ift,
            training.ift_per_batch,
            training.num_epochs,
            training.batch_size,
            seed,
        )
        per_step = training.batch_size
    else:
        assert isinstance(training, DPOConfig)
        assert job.preferences is not None
        rows = read_rows(shards(job.preferences))
        pairs, num_dropped = within_length(
            map(preference_example, rows), job.config.model.max_length
        )
        if not pairs:
            raise PsrError(
                f"{job.stage}: no step preferences in {job.preferences}; the searches gave none "
                "(see the report: ties, identical candidates, errors)"
            )
        plan_dpo = batches(len(pairs), training.num_epochs, training.batch_size, seed)
        per_step = training.batch_size + training.replay_per_batch
        if training.replay_per_batch:
            plan_sft = replay_plan(job, num_ift, len(sft_examples), len(plan_dpo))
    accumulation = per_step // (micro * num_workers)
    engine, module = build_engine(job, accumulation)
    terms = []
    if plan_dpo:
        assert isinstance(training, DPOConfig)
        reference = loop.reference_logps(engine, pairs, pad_id, worker, 4 * micro)
        terms.append(loop.dpo_term(engine, pairs, plan_dpo, pad_id, worker, training, reference))
    if plan_sft:
        terms.append(loop.sft_term(engine, sft_examples, plan_sft, pad_id, worker))
    progress = ProgressWriter(job.run_dir, job.stage, "steps")
    num_steps = len(terms[0].plan)
    writer = MetricsWriter(job.out, progress, num_steps, rank)
    check = loop.check_first_dpo_loss if plan_dpo else None
    figures = loop.run_steps(engine, terms, training, worker, writer, check)
    writer.close()
    export(module, tokenizer, job, rank)
    if rank == 0:
        facts = {
            "num_steps": num_steps,
            "num_rows": len(pairs) or len(sft_examples),
            "num_dropped": num_dropped,
            "last": figures,
        }
        write_text(job.out / "training.json", json.dumps(facts, indent=1))


def load_sft(job: TrainingJob, prompts: PromptBuilder) -> tuple[list[Any], int, int]:
    """IFT then EFT examples, how many are IFT, and how many were too long."""
    if job.kind == "dpo" and not job.config.dpo.replay_per_batch:
        return [], 0, 0
    length = job.config.model.max_length
    ift, ift_dropped = within_length(
        (ift_example(row, prompts) for row in read_rows([job.ift])), length
    )
    eft, eft_dropped = within_length(
        (eft_example(row, prompts, job.config.judge) for row in read_rows([job.eft])), length
    )
    if not ift and not eft:
        raise PsrError(f"{job.stage}: no row of {job.ift} or {job.eft} fits in {length} tokens")
    return ift + eft, len(ift), ift_dropped + eft_dropped


def replay_plan(job: TrainingJob, num_ift: int, num_rows: int, num_steps: int) -> list[list[int]]:
    """SFT rows that go with each step-DPO step, mixed as in SFT."""
    size = job.config.dpo.replay_per_batch
    rng = random.Random(f"replay/{job.stage}/{job.config.seed}")
    share = job.config.sft.ift_per_batch
    plan = []
    for _ in range(num_steps):
        if share is None:
            plan.append([rng.randrange(num_rows) for _ in range(size)])
            continue
        from_ift = round(share * size)
        plan.append(
            [rng.randrange(num_ift) for _ in range(from_ift)]
            + [rng.randrange(num_ift, num_rows) for _ in range(size - from_ift)]
        )
    return plan


def build_engine(job: TrainingJob, accumulation: int) -> tuple[Any, Any]:
    """DeepSpeed's engine around the policy, and the model itself."""
    import deepspeed
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig

    from psr_ray.training.loop import deepspeed_config

    training = job.training
    if not training.use_gpu:
        # The shared-memory op needs a C++ compiler and a minute; under Ray it is never used (it
        # wants LOCAL_SIZE), so gloo does the work either way.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    settings = deepspeed_config(training, accumulation, job.config.model.dtype)
    # With ZeRO-3 this must exist while the model is loaded: it then loads shard by shard.
    keep = HfDeepSpeedConfig(settings) if training.zero_stage == 3 else None
    torch.manual_seed(job.config.seed)
    model = AutoModelForCausalLM.from_pretrained(
        job.model,
        dtype=getattr(torch, job.config.model.dtype),
        trust_remote_code=job.config.model.trust_remote_code,
        use_safetensors=True,
    )
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if training.lora is not None:
        from peft import LoraConfig, get_peft_model

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
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=[p for p in model.parameters() if p.requires_grad],
        config=settings,
    )
    engine.train()
    del keep
    return engine, model


def export(model: Any, tokenizer: Any, job: TrainingJob, rank: int) -> None:
    """Write a plain Hugging Face folder; a LoRA update is merged into the weights first."""
    import deepspeed

    final = job.out / MODEL_FOLDER
    unfinished = job.out / f".{MODEL_FOLDER}"
    with deepspeed.zero.GatheredParameters(
        list(model.parameters()), modifier_rank=0, enabled=job.training.zero_stage == 3
    ):
        if rank == 0:
            if job.training.lora is not None:
                model = model.merge_and_unload()
            state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
            model.save_pretrained(unfinished, state_dict=state, safe_serialization=True)
            tokenizer.save_pretrained(unfinished)
            os.replace(unfinished, final)
