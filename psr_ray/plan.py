"""What a run will do, computed from its config alone: rows, requests, tokens, pairs, memory.

Two figures need an assumption, stated in the output: steps per solution (the embedded problems
know theirs; 8 elsewhere, between the paper's GSM8K and MATH figures, Table 7) and the share of
candidates that differ (all: an upper bound; identical ones are merged before judging).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from psr_ray.config import Config, MethodConfig, SourceConfig, TrainingConfig
from psr_ray.runs import RunDirectory
from psr_ray.stages import Step, steps_of
from psr_ray.training.examples import mixed_batches, num_steps

ASSUMED_STEPS = 8.0


@dataclass(frozen=True)
class Estimate:
    """What one stage does, at most."""

    rows: int
    requests: int = 0
    tokens: int = 0
    note: str = ""


def steps_per_solution(source: SourceConfig) -> float:
    return sum(source.num_steps) / 2 if source.kind == "arithmetic" else ASSUMED_STEPS


def search_estimate(config: Config, source: SourceConfig, rows: int) -> Estimate:
    """Upper bound for the config's method: all candidates differ; no rollbacks."""
    w, method = config.search.num_candidates, config.method
    whole = method.unit == "solution"
    steps = rows * (1 if whole else min(steps_per_solution(source), config.search.max_steps))
    judgements, judge_tokens = 0, 0
    if method.ranking == "pairwise":
        judgements = w * (w - 1)
        judge_tokens = config.judge.max_tokens if config.judge.mode == "explain" else 1
    elif method.ranking == "points":
        judgements, judge_tokens = w, config.judge.max_points_tokens
    unit_tokens = config.evaluation.max_tokens if whole else config.search.max_step_tokens
    return Estimate(
        rows,
        round(steps * (w + judgements)),
        round(steps * (w * unit_tokens + judgements * judge_tokens)),
        f"at most {round(steps)} preference pairs",
    )


def sft_estimate(config: Config) -> Estimate:
    """Exact but for rows that do not fit: the plan of batches is known from the numbers of rows."""
    data, sft = config.data, config.sft
    eft = data.eft.num + (data.eft_solutions.num if data.eft_solutions is not None else 0)
    plan = mixed_batches(
        data.ift.num, eft, sft.ift_per_batch, sft.num_epochs, sft.batch_size, config.seed
    )
    return Estimate(data.ift.num + eft, note=f"{len(plan)} optimizer steps")


def dpo_estimate(config: Config, source: SourceConfig) -> Estimate:
    pairs = round(source.num * steps_per_solution(source))
    steps = num_steps(pairs, config.dpo.num_epochs, config.dpo.batch_size)
    return Estimate(pairs, note=f"at most {steps} optimizer steps")


def model_parameters(folder: str) -> int | None:
    """Parameters of a local model folder, from its config; None for a Hub id."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        return None
    c = json.loads(path.read_text())
    try:
        hidden, layers, heads = c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"]
        kv = c.get("num_key_value_heads") or heads
        head = c.get("head_dim") or hidden // heads
        attention = hidden * head * (2 * heads + 2 * kv)
        embeddings = c["vocab_size"] * hidden * (1 if c.get("tie_word_embeddings") else 2)
        return int(layers * (attention + 3 * hidden * c["intermediate_size"]) + embeddings)
    except KeyError:
        return None


def training_memory_gib(training: TrainingConfig, parameters: int, dtype: str) -> float:
    """Weights, gradients and Adam states of one worker in GiB, without activations.

    ZeRO 1 shards the optimizer, 2 also the gradients, 3 also the weights (arXiv 1910.02054).
    """
    width = 4 if dtype == "float32" else 2
    optimizer = 8 if dtype == "float32" else 12
    if training.offload_optimizer:
        optimizer = 0
    n = training.num_workers
    stage = training.zero_stage
    per_parameter = (
        width / (n if stage >= 3 else 1)
        + width / (n if stage >= 2 else 1)
        + optimizer / (n if stage >= 1 else 1)
    )
    return parameters * per_parameter / 2**30


def estimate(step: Step, config: Config) -> Estimate:
    """What a stage does, at most."""
    data = config.data
    if step.kind == "data":
        return Estimate(sum(source.num for source in data.sources().values()))
    if step.kind == "sft":
        return sft_estimate(config)
    if step.kind in ("search", "preferences"):
        source = config.train_source(step.iteration)
        searched = search_estimate(config, source, source.num)
        return searched if step.kind == "search" else Estimate(source.num, note=searched.note)
    if step.kind == "train":
        return dpo_estimate(config, config.train_source(step.iteration))
    return evaluation_estimate(config, step.model)


def evaluation_estimate(config: Config, model: str) -> Estimate:
    """Greedy solutions and fixed pairs; searches, samples and probes for all models but M0."""
    data, settings = config.data, config.evaluation
    solved = data.heldout.num + (data.hard.num if data.hard is not None else 0)
    judged = data.judge.num if data.judge is not None else 0
    judge_tokens = config.judge.max_tokens if config.judge.mode == "explain" else 1
    rows, requests = solved + judged, solved + 2 * judged
    tokens = solved * settings.max_tokens + 2 * judged * judge_tokens
    if model != "M0":
        again = min(settings.num_search_problems, data.heldout.num)
        paper = config.model_copy(update={"method": MethodConfig()})
        searched = search_estimate(paper, data.heldout, again)
        rows += 2 * again
        requests += searched.requests + again * settings.num_samples
        tokens += searched.tokens + again * settings.num_samples * settings.max_tokens
    return Estimate(rows, requests, tokens)


def print_plan(config: Config, console: Console) -> None:
    """The resolved config, then a row a stage."""
    console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), highlight=False)
    table = Table(title=f"{config.name}: what each stage does, at most")
    for column in ("stage", "state", "rows", "requests", "tokens", "note"):
        table.add_column(
            column, justify="right" if column in ("rows", "requests", "tokens") else "left"
        )
    for step in steps_of(RunDirectory(config)):
        figures = estimate(step, config)
        table.add_row(
            step.stage.name,
            "complete" if step.stage.is_complete else "to do",
            f"{figures.rows:,}",
            f"{figures.requests:,}" if figures.requests else "",
            f"{figures.tokens:,}" if figures.tokens else "",
            figures.note,
        )
    console.print(table)
    parameters = model_parameters(config.model.base)
    if parameters is None:
        console.print("memory: unknown, the model is no local folder")
        return
    for name, training in (("sft", config.sft), ("dpo", config.dpo)):
        gib = training_memory_gib(training, parameters, config.model.dtype)
        console.print(
            f"memory, {name}: {gib:.2f} GiB a worker for weights, gradients and optimizer "
            f"({parameters / 1e6:,.1f}M parameters, ZeRO {training.zero_stage}, "
            f"{training.num_workers} workers), activations on top"
        )
    width = 4 if config.model.dtype == "float32" else 2
    cache = (
        "set by gpu_memory_utilization"
        if config.engine.kv_cache_gib is None
        else (f"{config.engine.kv_cache_gib:.2f} GiB")
    )
    console.print(
        f"memory, engine: {parameters * width / 2**30:.2f} GiB weights + KV cache {cache}, "
        f"{config.engine.num_engines[0]} to {config.engine.num_engines[1]} engines"
    )
    console.print(
        "assumed: all candidates differ and fill their token limits (upper bounds); "
        f"{ASSUMED_STEPS:.0f} steps a solution for problems from files"
    )
