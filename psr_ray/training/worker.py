"""What one training worker does: load the policy, build the batches, train, export M(k+1)."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from psr_ray.config import Config, DPOConfig, TrainingConfig
from psr_ray.errors import PsrError
from psr_ray.method.preferences import PAIRS, SOLUTIONS
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.report.progress import ProgressWriter
from psr_ray.runs import CHECKPOINTS, KEY_FILE, fingerprint
from psr_ray.storage.files import read_json, write_text
from psr_ray.storage.shards import read_rows, shards
from psr_ray.telemetry.trackers import Trackers
from psr_ray.training.examples import (
    PreferenceExample,
    SFTExample,
    batches_by_search,
    cycle,
    eft_example,
    ift_example,
    mixed_batches,
    points_example,
    preference_example,
    solution_example,
    within_length,
)

if TYPE_CHECKING:
    import torch

    from psr_ray.training.distributed import Worker

MODEL_FOLDER = "model"
LATEST = "latest.json"


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


def steps_kept(out: Path) -> int:
    """Optimizer steps in the newest checkpoint of a training's folder."""
    latest = read_json(out / CHECKPOINTS / LATEST)
    return 0 if latest is None else int(latest["step"])


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
    from psr_ray.training.checkpoint import Checkpoints
    from psr_ray.training.distributed import Worker
    from psr_ray.training.engine import build_engine, export
    from psr_ray.training.metrics import MetricsWriter
    from psr_ray.training.reference import TOLERANCES, changes_of, check_packing
    from psr_ray.training.terms import dpo_term, sft_term

    training, budget = job.training, job.training.tokens_per_pass
    rank = dist.get_rank() if dist.is_initialized() else 0
    num_workers = dist.get_world_size() if dist.is_initialized() else 1
    if not training.use_gpu:
        torch.set_num_threads(training.cpus_per_worker)
    device = (
        torch.device("cuda", torch.cuda.current_device())
        if training.use_gpu
        else torch.device("cpu")
    )
    worker = Worker(rank, num_workers, device)
    tokenizer = load_tokenizer(job.model, trust_remote_code=job.config.model.trust_remote_code)
    prompts = PromptBuilder(tokenizer, job.config.prompts)
    work = sft_work(job, prompts) if job.preferences is None else dpo_work(job)
    engine, module = build_engine(job)
    terms = []
    if work.pair_plan:
        assert isinstance(training, DPOConfig)
        weight = float(job.config.method.objective == "dpo")
        reference = reference_of(job, engine, work.pairs, worker)
        terms.append(dpo_term(work.pairs, work.pair_plan, training, reference, dpo_weight=weight))
    if work.plan:
        terms.append(sft_term(work.examples, work.plan))
    progress = ProgressWriter(job.run_dir, job.stage, "steps")
    num_steps = len(terms[0].plan)
    dtype = job.config.model.dtype
    tolerance = loop.FIRST_LOSS_TOLERANCES[dtype]
    check = partial(loop.check_first_dpo_loss, tolerance=tolerance) if work.pair_plan else None
    units = [unit for term in terms for unit in term.units(term.plan[0], budget)]
    check_packing(engine, units, TOLERANCES[dtype], device)
    checkpoints = Checkpoints(job.out, engine, training, worker, terms)
    num_done = checkpoints.restore()  # after the reference, which is the policy before any step
    trackers = trackers_of_training(job) if rank == 0 else None
    writer = MetricsWriter(job.out, progress, num_steps, rank, num_done, trackers)
    try:
        figures = loop.run_steps(
            engine, terms, training, worker, writer, checkpoints, num_done, check
        )
    except loop.NotFinite as error:
        if rank == 0:
            loop.keep_batch(job.out, terms, error)
        raise
    learned = changes_of(engine, work.pairs, reference, worker, budget) if work.pair_plan else {}
    writer.close()
    export(module, tokenizer, job, rank)
    if rank == 0:
        facts = {
            "num_steps": num_steps,
            "num_rows": len(work.pairs) or len(work.examples),
            "num_dropped": len(work.dropped),
            "dropped": work.dropped[:20],
            "last": figures,
            "learned": learned,
        }
        write_text(job.out / "training.json", json.dumps(facts, indent=1))


def trackers_of_training(job: TrainingJob) -> Trackers:
    """Where a training's figures go beside its folder."""
    key = job.out / KEY_FILE
    named = key.read_text() if key.is_file() else "none"
    settings = job.training.model_dump(mode="json")
    name = f"{job.run_dir.name}-{job.out.name}-{named}"
    return Trackers(job.config.telemetry, job.out, name, settings)


@dataclass(frozen=True)
class Work:
    """Rows of a training run and the row indices of every step; a kind without rows has no plan.

    ``dropped`` are the ids of rows that do not fit."""

    examples: list[SFTExample]
    plan: list[list[int]]
    pairs: list[PreferenceExample]
    pair_plan: list[list[int]]
    dropped: list[str]


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
    return Work(ift + eft, plan, [], [], ift_dropped + eft_dropped)


def dpo_work(job: TrainingJob) -> Work:
    """Step preferences that fit, and the whole solutions that go with each batch, if any do.

    Rows come in the order of their ids: shards hold them in the order in which searches ended, which is
    another one each time."""
    assert job.preferences is not None
    length, settings, seed = job.config.model.max_length, job.config.dpo, job.config.seed
    rows = sorted(
        read_rows(shards(job.preferences / PAIRS)),
        key=lambda row: (row["problem_id"], row["step_number"], row["id"]),
    )
    pairs, dropped = within_length(map(preference_example, rows), length)
    if not pairs:
        raise PsrError(
            f"{job.stage}: no step preferences in {job.preferences}; the searches gave none "
            "(see the report: ties, identical candidates, errors)"
        )
    pair_plan = batches_by_search(pairs, settings.num_epochs, settings.batch_size, seed)
    solutions: list[SFTExample] = []
    plan: list[list[int]] = []
    if settings.solutions_per_batch:
        rows = sorted(read_rows(shards(job.preferences / SOLUTIONS)), key=lambda row: row["id"])
        solutions, too_long = within_length(map(solution_example, rows), length)
        dropped += too_long
    if solutions:
        order = iter(cycle(len(solutions), random.Random(f"solutions/{seed}")))
        plan = [[next(order) for _ in range(settings.solutions_per_batch)] for _ in pair_plan]
    return Work(solutions, plan, pairs, pair_plan, dropped)


def reference_of(
    job: TrainingJob, engine: Any, pairs: list[PreferenceExample], worker: Worker
) -> torch.Tensor:
    """The reference's log-probabilities: stored ones of this very model and these very pairs, or
    computed and stored."""
    from psr_ray.training.reference import (
        FOLDER,
        read_reference,
        reference_key,
        reference_logps,
        write_reference,
    )

    assert job.preferences is not None
    lora = job.training.lora
    weights = job.config.model.dtype if lora is None or not lora.four_bit else "nf4"
    key = reference_key(fingerprint(job.model, num_windows=256), weights, pairs)
    folder = job.preferences / FOLDER
    stored = read_reference(folder, key, pairs) if worker.rank == 0 else None
    table: torch.Tensor | None = worker.from_first(stored)
    if table is None:
        table = reference_logps(engine, pairs, worker, job.training.tokens_per_pass)
        if worker.rank == 0:
            write_reference(folder, key, pairs, table)
    return table
