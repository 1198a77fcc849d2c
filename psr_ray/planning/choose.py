"""Settings for a model on a machine: what `psr-ray init` writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from psr_ray.config import Config, PromptConfig, SourceConfig
from psr_ray.data.files import PATTERN, Failures, files_of
from psr_ray.data.hub import TRAINING_SETS
from psr_ray.data.sources import problem_rows
from psr_ray.errors import PsrError
from psr_ray.planning.memory import GIB, check_fits, engine_memory
from psr_ray.planning.model import ModelShape, model_config, model_file, model_shape
from psr_ray.storage.files import Json, read_json

Recipe = Literal["paper", "instruct", "lora", "cpu"]
# Longest sequence asked for, where the model's context allows it.
LENGTH, CPU_LENGTH = 4096, 1536
# Problems to search in each round.
ROUNDS: dict[Recipe, tuple[int, ...]] = {
    "paper": (400, 800, 1200),
    "instruct": (400,),
    "lora": (400,),
    "cpu": (40,),
}
# Endings of file names; a Hub id has none of them.
SUFFIXES = (".jsonl", ".json", ".csv", ".gz", ".parquet")
# Training sets whose dataset has a split to test with.
WITH_TEST = ("gsm8k", "math")
# Bytes a weight takes on CPU, in 32 bits: itself, its gradient, Adam's moments, the engine's copy.
CPU_BYTES = 20


@dataclass(frozen=True)
class Machine:
    """What a run may use: GPUs of one node and the memory of each, or CPU cores and their memory."""

    num_gpus: int
    gpu_gib: float
    cores: int
    memory_gib: float


@dataclass(frozen=True)
class ModelFacts:
    """A model by its small files."""

    base: str
    context: int
    has_chat_template: bool


def this_machine() -> Machine:
    """The GPUs, cores and memory of this machine."""
    import torch

    num = torch.cuda.device_count()
    gpu = min((torch.cuda.get_device_properties(i).total_memory for i in range(num)), default=0)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(num, gpu / GIB, os.cpu_count() or 1, memory / GIB)


def model_facts(base: str) -> ModelFacts:
    """A model folder's or Hub id's facts; of the Hub, only small files are fetched.

    Raises ``PsrError`` where it holds no config.
    """

    config = model_config(base)
    if config is None:
        raise PsrError(f"--model {base}: no config.json; give a Hugging Face folder or a Hub id")
    tokenizer = model_file(base, "tokenizer_config.json")
    settings = {} if tokenizer is None else read_json(tokenizer, "fetch the model again") or {}
    template = settings.get("chat_template") or model_file(base, "chat_template.jinja")
    return ModelFacts(base, int(config.get("max_position_embeddings") or LENGTH), bool(template))


def is_hub_id(problems: str) -> bool:
    """Whether ``--problems`` names a dataset of the Hub. Raises ``PsrError`` where it names nothing."""
    try:
        files_of(problems)
        return False
    except PsrError as error:
        is_id = problems.count("/") == 1 and Path(problems).suffix not in SUFFIXES
        if problems in TRAINING_SETS or (is_id and PATTERN.isdisjoint(problems)):
            return True
        if "/" in problems or Path(problems).suffix in SUFFIXES:
            raise PsrError(f"--problems {problems}: no such file; correct it") from error
        raise PsrError(
            f"--problems {problems}: neither a file nor a Hub id nor one of {', '.join(TRAINING_SETS)}"
        ) from error


def num_in(problems: str, most: int) -> int:
    """How many problems the files hold, counted up to ``most``; of the Hub, ``most`` where not known.

    Raises ``PsrError`` where there are fewer than two: one is to search, one to measure with."""
    if is_hub_id(problems):
        return min(TRAINING_SETS[problems].num, most) if problems in TRAINING_SETS else most
    source = SourceConfig(kind="file", path=problems, num=most)
    num = sum(1 for _ in problem_rows(source, "train", "search", 0, Failures()))
    if num < 2:
        raise PsrError(f"--problems {problems}: {num} problem; a run needs two at least")
    return num


def data_settings(
    recipe: Recipe, problems: str, benchmarks: list[str], num: int | None = None
) -> Json:
    """The sources: ``num`` problems a round (default: by recipe), half as many held out; of the paper's
    recipe also the files that the first fine-tuning needs."""
    rounds = ROUNDS[recipe] if num is None else (num,)
    wanted, held = sum(rounds), max(rounds[0] // 2, 1)
    there = num_in(problems, wanted + held)
    if there < wanted + held:  # a third of a small set to measure with, the rest in equal rounds
        held = max(there // 3, 1)
        each = max((there - held) // len(rounds), 1)
        rounds = (each,) * min(len(rounds), there - held)
    source = {"kind": "hub" if is_hub_id(problems) else "file", "path": problems}
    split = {"split": "test"} if problems in WITH_TEST else {}
    data: Json = {
        "train": [source | {"num": each} for each in rounds],
        "heldout": source | split | {"num": held},
    }
    data["judge"] = None
    if recipe == "paper":
        files = {"ift": 28889, "eft": 4179, "judge": 500}
        data |= {
            name: {"kind": "file", "path": f"data/{name}.jsonl", "num": rows}
            for name, rows in files.items()
        }
    return data | ({"benchmarks": benchmarks} if benchmarks else {})


def chosen_settings(
    name: str,
    facts: ModelFacts,
    machine: Machine,
    recipe: Recipe,
    problems: str,
    benchmarks: list[str],
    num: int | None = None,
) -> Json:
    """The settings of a config that differ from the defaults, so that it fits on the machine.

    Raises ``PsrError`` with what is too large where nothing fits, and for a recipe that the model or the
    machine does not go with.
    """
    if recipe != "paper" and not facts.has_chat_template:
        raise PsrError(
            f"--recipe {recipe}: the tokenizer of {facts.base} has no chat template, so it is a base "
            "model; take --recipe paper, which fine-tunes it first"
        )
    if recipe != "cpu" and not machine.num_gpus:
        raise PsrError(
            f"--recipe {recipe}: no GPU here; take --recipe cpu, or name the cluster's: "
            "--gpus 8 --gpu h100"
        )
    length = min(CPU_LENGTH if recipe == "cpu" else LENGTH, facts.context)
    settings: Json = {
        "name": name,
        "num_iterations": 3 if recipe == "paper" else 1,
        "model": {
            "base": facts.base,
            "dtype": "float32" if recipe == "cpu" else "bfloat16",
            "max_length": length,
        },
        "data": data_settings(recipe, problems, benchmarks, num),
        "prompts": {
            "chat_template": facts.has_chat_template,
            "step_stop": PromptConfig().step_stop,
        },
    }
    if recipe != "paper":
        settings["sft"] = None
    if recipe == "cpu":
        return settings | cpu_settings(settings, machine)
    settings["judge"] = {"mode": "explain", "max_tokens": min(1024, length // 4)}
    if length < LENGTH:
        settings["search"] = {"max_step_tokens": min(512, length // 4)}
        settings["evaluation"] = {"max_tokens": length // 2}
    refused: PsrError | None = None
    for placed in gpu_settings(recipe, machine, length):
        config = Config.model_validate(settings | placed)
        shape = model_shape(config.model)
        if shape is None:
            return settings | placed
        try:
            check_fits(config, shape, machine.gpu_gib)
        except PsrError as error:
            refused = error
            continue
        if engine_memory(shape, config, machine.gpu_gib).sequences(length) >= 8:
            return settings | placed
    raise PsrError(f"--model {facts.base}: too large for this machine: {refused}")


def gpu_settings(recipe: Recipe, machine: Machine, length: int) -> Iterator[Json]:
    """Ways to place engines and training on the GPUs, the fastest first."""
    num = machine.num_gpus
    sizes = [size for size in (1, 2, 4, 8) if num % size == 0 and size <= num]
    trained: list[Json] = [
        {"zero_stage": 3 if num > 1 else 0, "gradient_checkpointing": checkpointing}
        for checkpointing in (False, True)
    ]
    trained.append({"zero_stage": 3, "gradient_checkpointing": True, "offload_optimizer": True})
    if recipe != "paper":
        lora = {"zero_stage": 0, "gradient_checkpointing": True, "lora": {"rank": 32, "alpha": 64}}
        trained = [lora] if recipe == "lora" else [*trained, lora]
    for how in trained:
        for size in sizes:
            training = {"num_workers": num, "tokens_per_pass": max(8192, length), **how}
            placed: Json = {
                "engine": {"num_engines": [1, num // size], "tensor_parallel_size": size},
                "dpo": {"lr": 5e-6, **training} if "lora" in how else training,
            }
            yield placed | ({"sft": training} if recipe == "paper" else {})


def cpu_settings(settings: Json, machine: Machine) -> Json:
    """A small run on CPU cores. Raises ``PsrError`` where the model does not fit in memory."""
    placed: dict[str, Any] = {
        "search": {
            "num_candidates": 4,
            "max_steps": 8,
            "max_step_tokens": min(160, settings["model"]["max_length"] // 4),
        },
        "judge": {"mode": "verdict"},
        "engine": {
            "tensor_parallel_size": 0,
            "kv_cache_gib": 1,
            "cpus_per_engine": machine.cores,
            "max_num_seqs": 32,
            "enforce_eager": True,
        },
        "dpo": {
            "use_gpu": False,
            "zero_stage": 0,
            "cpus_per_worker": machine.cores,
            "tokens_per_pass": settings["model"]["max_length"],
        },
        "evaluation": {
            "max_tokens": min(512, settings["model"]["max_length"] // 2),
            "num_search_problems": 8,
            "num_samples": 4,
        },
    }
    shape: ModelShape | None = model_shape(Config.model_validate(settings | placed).model)
    if shape is not None and shape.parameters * CPU_BYTES / GIB > machine.memory_gib:
        raise PsrError(
            f"--model {settings['model']['base']}: training its {shape.parameters / 1e9:.1f}B weights "
            f"takes {shape.parameters * CPU_BYTES / GIB:.0f} GiB, this machine has "
            f"{machine.memory_gib:.0f}; take a smaller model, or a GPU"
        )
    return placed
