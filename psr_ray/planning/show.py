"""`psr-ray plan`: the config, a row a stage, memory, GPU-hours, money; refuses what cannot fit."""

from __future__ import annotations

import yaml
from rich.console import Console
from rich.table import Table

from psr_ray.config import Config
from psr_ray.errors import PsrError
from psr_ray.planning.cost import (
    BANDWIDTH_SHARE,
    GPUS,
    PREFILL_SHARE,
    TRAINING_SHARE,
    Gpu,
    generation_hours,
    training_hours,
)
from psr_ray.planning.judging import judge_of_step
from psr_ray.planning.lengths import Lengths, lengths_of
from psr_ray.planning.memory import (
    GIB,
    check_fits,
    checkpoint_gib,
    engine_memory,
    means_on_disk,
    models_on_disk,
    most_on_disk,
    training_memory,
)
from psr_ray.planning.model import ModelShape, model_shape
from psr_ray.planning.wall import LAYOUTS, StageTime, assumed, layout_time
from psr_ray.planning.work import Work, work_of
from psr_ray.runs import RunDirectory
from psr_ray.stages import PlannedStage, planned_stages

COLUMNS = ("stage", "state", "rows", "requests", "tokens", "at most", "GPU-hours", "note")


def gpu_of(name: str) -> Gpu:
    """A kind of GPU by its name. Raises ``PsrError`` for one that is not known."""
    if name not in GPUS:
        raise PsrError(f"--gpu {name}: known are {', '.join(GPUS)}")
    return GPUS[name]


def gpu_hours(
    planned: PlannedStage, work: Work, config: Config, shape: ModelShape, gpu: Gpu, lengths: Lengths
) -> float:
    """GPU-hours of a stage."""
    if planned.kind in ("sft", "train"):
        training = config.trainings()["sft" if planned.kind == "sft" else "dpo"]
        tokens = float(work.trained_tokens)
        return training_hours(shape, training, gpu, tokens, reference=planned.kind == "train")
    if not work.tokens:
        return 0.0
    length = lengths.problem_prompt + lengths.solution / 2
    return generation_hours(config, shape, gpu, work.prompt_tokens, work.tokens, length)


def print_plan(
    config: Config, console: Console, *, gpu: str | None = None, price: float | None = None
) -> None:
    """The resolved config, then a row a stage. With ``gpu``, memory is checked against that kind and
    time is estimated; with ``price`` (of a GPU-hour), money.

    Raises ``PsrError`` where an engine or a training worker does not fit on such a GPU.
    """
    console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), highlight=False)
    shape, lengths = model_shape(config.model), lengths_of(config)
    kind = gpu_of(gpu) if gpu is not None else None
    table = Table(title=f"{config.name}: what each stage will do")
    for column in COLUMNS:
        left = column in ("stage", "state", "note")
        if column != "GPU-hours" or kind is not None:
            table.add_column(column, justify="left" if left else "right")
    total, times = 0.0, list[StageTime]()
    for planned in planned_stages(RunDirectory(config)):
        work = work_of(planned, config, lengths)
        done = planned.stage.is_complete
        values = [work.rows, work.requests, work.tokens, work.most]
        cells = [planned.stage.name, "complete" if done else "to do"]
        cells += [f"{value:,}" if value else "" for value in values]
        if kind is not None and shape is not None:
            hours = gpu_hours(planned, work, config, shape, kind, lengths)
            total += 0.0 if done else hours
            if hours and not done:
                model = None if planned.kind in ("sft", "train") else planned.model
                times.append(StageTime(model, 3600 * hours))
            cells.append(f"{hours:.2f}" if hours else "")
        elif kind is not None:
            cells.append("?")
        table.add_row(*cells, work.note)
    console.print(table)
    console.print(
        f"tokens: expected; lengths are from {lengths.origin}: {lengths.steps:.1f} steps of "
        f"{lengths.step:.1f} tokens, judgements of {lengths.judgement:.0f}"
        + (
            ""
            if lengths.tokens_per_search is None
            else f", {lengths.tokens_per_search:.0f} a search"
        )
        + "; at most: all candidates differ and fill their limits (docs/planning.md)",
        soft_wrap=True,
    )
    if judge := judge_line(config, lengths):
        console.print(judge, soft_wrap=True)
    if shape is None:
        console.print("memory: unknown, the model is neither a folder nor one this program knows")
        return
    print_memory(config, shape, console, kind)
    console.print(disk_line(config, shape), soft_wrap=True)
    if kind is None:
        console.print("GPU-hours and what fits: add --gpu " + "|".join(GPUS), soft_wrap=True)
        return
    check_fits(config, shape, kind.memory_gib)
    money = "" if price is None else f", {total * price:,.2f} at {price:g} each"
    console.print(
        f"left to do: about {total:,.1f} GPU-hours of work on {gpu}{money} (assumed: "
        f"{TRAINING_SHARE:.0%} of the peak in training, {PREFILL_SHARE:.0%} in prompts, "
        f"{BANDWIDTH_SHARE:.0%} of the bandwidth in decoding; waiting GPUs not counted)",
        soft_wrap=True,
    )
    print_layouts(config, shape, times, console, price)


def print_layouts(
    config: Config,
    shape: ModelShape,
    times: list[StageTime],
    console: Console,
    price: float | None,
) -> None:
    """Wall time of what is left to do, the GPU-hours held (and what they cost) and their busy share, by
    layout."""
    engines = config.engine.num_engines[1] * config.engine.tensor_parallel_size
    workers = max(t.num_workers if t.use_gpu else 0 for t in config.trainings().values())
    if not engines or not workers or not times:
        return
    over = assumed(config, shape)
    for layout in LAYOUTS:
        keeps = config.engine.model_copy(update={"layout": layout}).keeps_workers
        found = layout_time(times, layout, engines, workers, over, keeps_workers=keeps)
        why = config.why_gpus_are_not_shared() if layout == "colocated" else None
        needs = "" if why is None else f"; it needs {why}"
        hours = found.wall_s / 3600
        held = hours * found.gpus
        money = "" if price is None else f", {held * price:,.2f} at {price:g} each"
        console.print(
            f"engine.layout {layout}: about {hours:,.1f} hours on {found.gpus} GPUs: {held:,.1f} "
            f"GPU-hours held{money}, which work {found.busy_share:.0%} of that{needs}",
            soft_wrap=True,
        )
    console.print(
        f"(assumed, not measured on GPUs: an engine starts in {over.engine_start:.0f} s and loads "
        f"another model in {over.engine_load:.0f} s, training workers start in "
        f"{over.group_start:.0f} s, a training loads and exports in {over.training:.0f} s; all "
        f"{config.engine.num_engines[1]} engines work to a stage's end)",
        soft_wrap=True,
    )


def disk_line(config: Config, shape: ModelShape) -> str:
    """What a run's models and checkpoints take on its disk or in its bucket; rows are small beside."""
    made, kept, _ = models_on_disk(config)
    means = means_on_disk(config)
    weights = shape.weight_bytes / GIB
    trainings = config.trainings().values()
    checkpoint, part = max(checkpoint_gib(shape, training) for training in trainings)
    seconds = part * GIB / 1e9
    return (
        f"disk: {kept * weights:,.1f} GiB for {kept} of {made} models (keep_models: "
        f"{config.keep_models or 'all'}){f', {means} means of them' if means else ''}, at most "
        f"{most_on_disk(config, shape):,.1f} GiB while training, with two checkpoints of "
        f"{checkpoint:,.1f} GiB, of which a worker writes {part:,.1f} ({seconds:,.0f} s at 1 GB/s, "
        "in a store while training goes on); rows take some KB a search"
    )


# Ways of judging that a plan compares: settings of `judge`.
WAYS: tuple[dict[str, str | bool], ...] = (
    {"mode": "explain", "comparisons": "all"},
    {"mode": "explain", "comparisons": "needed"},
    {"mode": "explain", "comparisons": "knockout"},
    {"mode": "shared", "comparisons": "needed", "critiques": True},
    {"mode": "shared", "comparisons": "needed"},
    {"mode": "verdict", "comparisons": "needed"},
)


def judge_line(config: Config, lengths: Lengths) -> str:
    """What the judge of a step writes, by the ways of judging pairs; empty for other rankings."""
    if config.method.ranking != "pairwise":
        return ""

    def tokens(**settings: str | bool) -> float:
        judge = config.judge.model_copy(update={"critiques": False} | settings)
        return judge_of_step(config.model_copy(update={"judge": judge}), lengths).tokens

    said = [
        f"{way['mode']}, {way['comparisons']}{', critiques' if way.get('critiques') else ''}: "
        f"{tokens(**way):,.0f}"
        for way in WAYS
    ]
    now = judge_of_step(config, lengths).tokens
    return (
        f"judge tokens a step: {now:,.0f} expected; by judge.mode, comparisons: {'; '.join(said)}"
    )


def print_memory(config: Config, shape: ModelShape, console: Console, gpu: Gpu | None) -> None:
    """Print the memory of an engine and of the training workers."""
    for name, training in config.trainings().items():
        memory = training_memory(shape, training)
        host = f"; {memory.host:.2f} GiB of the node's memory" if memory.host else ""
        console.print(
            f"memory, {name}: {memory.total:.2f} GiB a worker ({shape.parameters / 1e6:,.1f}M "
            f"parameters, ZeRO {training.zero_stage}, {training.num_workers} workers: weights "
            f"{memory.weights:.2f}, gradients {memory.gradients:.2f}, optimizer {memory.optimizer:.2f}, "
            f"activations {memory.activations:.2f}, logits {memory.logits:.2f}, and a reserve){host}",
            soft_wrap=True,
        )
    least, most = config.engine.num_engines
    if gpu is None and config.engine.kv_cache_gib is None:
        console.print("memory, engine: KV cache is what gpu_memory_utilization leaves (add --gpu)")
        return
    engine = engine_memory(shape, config, gpu.memory_gib if gpu is not None else 0.0)
    console.print(
        f"memory, engine: {engine.weights:.2f} GiB weights + {engine.cache:.2f} GiB KV cache on each "
        f"GPU, which holds {engine.num_tokens:,} tokens: {engine.sequences(config.model.max_length)} "
        f"sequences of max_length, at least; {least} to {most} engines",
        soft_wrap=True,
    )
