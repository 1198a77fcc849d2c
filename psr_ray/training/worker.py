"""What one training worker does: load the policy, build the batches, train, export M(k+1)."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from psr_ray.config import Config, DPOConfig, TrainingConfig
from psr_ray.errors import PsrError
from psr_ray.preferences import PAIRS, SOLUTIONS
from psr_ray.progress import ProgressWriter
from psr_ray.prompts import PromptBuilder, load_tokenizer
from psr_ray.rows import read_rows, shards
from psr_ray.runs import write_text
from psr_ray.training.examples import (
    PreferenceExample,
    SFTExample,
    batches,
    by_length,
    cycle,
    eft_example,
    ift_example,
    mixed_batches,
    points_example,
    preference_example,
    solution_example,
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
    data: Path
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
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    work = sft_work(job, prompts) if job.preferences is None else dpo_work(job)
    engine, module = build_engine(job, accumulation(work, training, num_workers))
    terms = []
    if work.pair_plan:
        assert isinstance(training, DPOConfig)
        micro = 4 * training.micro_batch_size
        reference = loop.reference_logps(engine, work.pairs, pad_id, worker, micro)
        objective = job.config.method.objective
        terms.append(
            loop.dpo_term(
                engine,
                work.pairs,
                work.pair_plan,
                pad_id,
                worker,
                training,
                reference,
                dpo_weight=float(objective == "dpo"),
            )
        )
    if work.plan:
        terms.append(loop.sft_term(engine, work.examples, work.plan, pad_id, worker))
    progress = ProgressWriter(job.run_dir, job.stage, "steps")
    num_steps = len(terms[0].plan)
    writer = MetricsWriter(job.out, progress, num_steps, rank)
    check = loop.check_first_dpo_loss if work.pair_plan else None
    figures = loop.run_steps(engine, terms, training, worker, writer, check)
    writer.close()
    export(module, tokenizer, job, rank)
    if rank == 0:
        facts = {
            "num_steps": num_steps,
            "num_rows": len(work.pairs) or len(work.examples),
            "num_dropped": work.num_dropped,
            "last": figures,
        }
        write_text(job.out / "training.json", json.dumps(facts, indent=1))


@dataclass(frozen=True)
class Work:
    """Rows of a training run and the row indices of every step; a kind without rows has no plan."""

    examples: list[SFTExample]
    plan: list[list[int]]
    pairs: list[PreferenceExample]
    pair_plan: list[list[int]]
    num_dropped: int


def accumulation(work: Work, training: TrainingConfig, num_workers: int) -> int:
    """Forward passes of a worker in one step."""
    sizes = [len(plan[0]) // num_workers for plan in (work.plan, work.pair_plan) if plan]
    return sum(math.ceil(size / training.micro_batch_size) for size in sizes)


def sft_work(job: TrainingJob, prompts: PromptBuilder) -> Work:
    """IFT and EFT rows that fit, in mixed batches."""
    length, settings = job.config.model.max_length, job.config.sft
    ift, ift_dropped = within_length(
        (ift_example(row, prompts) for row in read_rows([job.data / "ift.parquet"])), length
    )
    judged = [
        eft_example(row, prompts, job.config.judge) for row in read_rows([job.data / "eft.parquet"])
    ]
    if job.config.data.eft_solutions is not None:
        rows = read_rows([job.data / "eft_solutions.parquet"])
        judged += [points_example(row, prompts) for row in rows]
    eft, eft_dropped = within_length(judged, length)
    if not ift and not eft:
        raise PsrError(f"{job.stage}: no row of {job.data} fits in {length} tokens")
    plan = mixed_batches(
        len(ift),
        len(eft),
        settings.ift_per_batch,
        settings.num_epochs,
        settings.batch_size,
        job.config.seed,
    )
    return Work(ift + eft, by_length(plan, ift + eft), [], [], ift_dropped + eft_dropped)


def dpo_work(job: TrainingJob) -> Work:
    """Step preferences that fit, and the whole solutions that go with each batch, if any do."""
    assert job.preferences is not None
    length, settings, seed = job.config.model.max_length, job.config.dpo, job.config.seed
    rows = read_rows(shards(job.preferences / PAIRS))
    pairs, num_dropped = within_length(map(preference_example, rows), length)
    if not pairs:
        raise PsrError(
            f"{job.stage}: no step preferences in {job.preferences}; the searches gave none "
            "(see the report: ties, identical candidates, errors)"
        )
    pair_plan = batches(len(pairs), settings.num_epochs, settings.batch_size, seed)
    solutions: list[SFTExample] = []
    plan: list[list[int]] = []
    if settings.solutions_per_batch:
        rows = read_rows(shards(job.preferences / SOLUTIONS))
        solutions, dropped = within_length(map(solution_example, rows), length)
        num_dropped += dropped
    if solutions:
        order = iter(cycle(len(solutions), random.Random(f"solutions/{seed}")))
        plan = [[next(order) for _ in range(settings.solutions_per_batch)] for _ in pair_plan]
    return Work(
        solutions, by_length(plan, solutions), pairs, by_length(pair_plan, pairs), num_dropped
    )


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
            shutil.rmtree(final, ignore_errors=True)  # left by a run that died before its manifest
            os.replace(unfinished, final)
