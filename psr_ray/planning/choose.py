"""Settings for a model on a machine: what `psr-ray init` writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from psr_ray.config import Config, PromptConfig
from psr_ray.data.sources import num_in, on_hub
from psr_ray.errors import PsrError
from psr_ray.planning.facts import LENGTH, ModelFacts, model_facts
from psr_ray.planning.machine import Machine, this_machine
from psr_ray.planning.memory import GIB, check_fits, engine_memory
from psr_ray.planning.model import ModelShape, model_shape
from psr_ray.storage.files import Json

Recipe = Literal["paper", "instruct", "lora", "cpu"]
# Longest sequence asked for on CPU.
CPU_LENGTH = 1536
# Problems to search in each round.
ROUNDS: dict[Recipe, tuple[int, ...]] = {
    "paper": (400, 800, 1200),
    "instruct": (400,),
    "lora": (400,),
    "cpu": (40,),
}
# Where the first fine-tuning's rows come from (docs/seed-data.md).
SEED: Json = {
    "ift": {"sources": [{"kind": "hub", "path": "numinamath-cot", "num": 36000}]},
    "eft": {"problems": [{"kind": "hub", "path": "math", "num": 3000}]},
}
# Training sets whose dataset has a split to test with.
WITH_TEST = ("gsm8k", "math")
# Learning rate of a LoRA's step-DPO; the paper's 5e-7 is for all weights.
LORA_LR = 5e-5
# Bytes a weight takes on CPU, in 32 bits: itself, its gradient, Adam's moments, the engine's copy.
CPU_BYTES = 20


def default_recipe(facts: ModelFacts, machine: Machine) -> tuple[Recipe, str]:
    """The recipe that goes with a model on a machine, and why."""
    if not machine.num_gpus:
        looks = f"; it looks like a base model ({facts.why_base})" if facts.why_base else ""
        return "cpu", f"no GPU here{looks}"
    if facts.why_base is None:
        return (
            "instruct",
            "it looks like a model that follows instructions; it is not fine-tuned first",
        )
    return "paper", f"it looks like a base model ({facts.why_base}); it is fine-tuned first"


def data_settings(
    recipe: Recipe, problems: str, benchmarks: list[str], num: int | None = None
) -> Json:
    """The sources: ``num`` problems a round (default: by recipe), half as many held out; of the paper's
    recipe also the rows of the first fine-tuning, which the run makes."""
    rounds = ROUNDS[recipe] if num is None else (num,)
    wanted, held = sum(rounds), max(rounds[0] // 2, 1)
    there = num_in(problems, wanted + held)
    if there < wanted + held:  # a third of a small set to measure with, the rest in equal rounds
        held = max(there // 3, 1)
        each = max((there - held) // len(rounds), 1)
        rounds = (each,) * min(len(rounds), there - held)
    source = {"kind": "hub" if on_hub(problems) else "file", "path": problems}
    split = {"split": "test"} if problems in WITH_TEST else {}
    data: Json = {
        "train": [source | {"num": each} for each in rounds],
        "heldout": source | split | {"num": held},
        "judge": None,
    }
    if recipe == "paper":
        rows = {"ift": 28889, "eft": 4179, "judge": 500}
        data |= {name: {"kind": "seed", "num": num} for name, num in rows.items()}
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
            "model; take --recipe paper on GPUs, which fine-tunes it first; on CPU begin with a copy of "
            "configs/demo.yaml, which does"
        )
    if recipe != "cpu" and not machine.num_gpus:
        raise PsrError(
            f"--recipe {recipe}: no GPU here; take --recipe cpu, or name the cluster's: "
            "--gpus 8 --gpu h100"
        )
    if recipe == "cpu":
        machine = replace(machine, num_gpus=0)
    data = data_settings(recipe, problems, benchmarks, num)
    settings = model_settings(name, facts, machine) | {"data": data}
    if recipe == "paper":
        settings |= {"num_iterations": 3, "seed_data": SEED}
        del settings["sft"]
    if recipe == "cpu":
        check_memory(settings, machine)
        return settings
    length = settings["model"]["max_length"]
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


def model_settings(name: str, facts: ModelFacts, machine: Machine) -> Json:
    """Settings that go with a model on GPUs or on CPU cores, but for data and training."""
    on_cpu = not machine.num_gpus
    length = min(CPU_LENGTH if on_cpu else LENGTH, facts.context)
    settings: Json = {
        "name": name,
        "num_iterations": 1,
        "model": {
            "base": facts.base,
            "dtype": "float32" if on_cpu else "bfloat16",
            "max_length": length,
        },
        "data": {},
        "prompts": {
            "chat_template": facts.has_chat_template,
            "step_stop": PromptConfig().step_stop,
        },
        "sft": None,
    }
    if on_cpu:
        return settings | cpu_settings(length, machine)
    settings["judge"] = {"mode": "explain", "max_tokens": min(1024, length // 4)}
    if length < LENGTH:
        settings["search"] = {"max_step_tokens": min(512, length // 4)}
        settings["evaluation"] = {"max_tokens": length // 2}
    return settings


def quick_settings(base: str) -> Json:
    """Settings to look at a model's searches and solutions on this machine, without a config.

    Raises ``PsrError`` where the model has no config, or no GPU holds it."""
    facts, machine = model_facts(base), this_machine()
    settings = model_settings("look", facts, machine) | {"dpo": {"use_gpu": False}}
    sizes = engine_sizes(machine.num_gpus)
    for size in sizes:
        placed = {"engine": {"tensor_parallel_size": size}}
        config = Config.model_validate(settings | placed)
        shape = model_shape(config.model)
        if shape is None or engine_memory(shape, config, machine.gpu_gib).sequences(
            config.model.max_length
        ):
            return settings | placed
    if sizes:
        raise PsrError(f"--model {base}: too large for {machine.num_gpus} GPUs of this machine")
    return settings


def engine_sizes(num_gpus: int) -> list[int]:
    """Numbers of GPUs that an engine may take."""
    return [size for size in (1, 2, 4, 8) if size <= num_gpus and num_gpus % size == 0]


def gpu_settings(recipe: Recipe, machine: Machine, length: int) -> Iterator[Json]:
    """Ways to place engines and training on the GPUs, the fastest first."""
    num = machine.num_gpus
    trained: list[Json] = [
        {"zero_stage": 3 if num > 1 else 0, "gradient_checkpointing": checkpointing}
        for checkpointing in (False, True)
    ]
    trained.append({"zero_stage": 3, "gradient_checkpointing": True, "offload_optimizer": True})
    if recipe != "paper":
        lora = {"zero_stage": 0, "gradient_checkpointing": True, "lora": {"rank": 32, "alpha": 64}}
        trained = [lora] if recipe == "lora" else [*trained, lora]
    for how in trained:
        for size in engine_sizes(num):
            training = {"num_workers": num, "tokens_per_pass": max(8192, length), **how}
            placed: Json = {
                "engine": {"num_engines": [1, num // size], "tensor_parallel_size": size},
                "dpo": {"lr": LORA_LR, **training} if "lora" in how else training,
            }
            yield placed | ({"sft": training} if recipe == "paper" else {})


def cpu_settings(length: int, machine: Machine) -> Json:
    """A small run on CPU cores, of sequences of ``length`` tokens."""
    return {
        # a nucleus is a sort of the vocabulary: 43 % of an engine's time with Qwen2.5's 152,000 tokens
        "search": {
            "num_candidates": 4,
            "top_p": 1.0,
            "max_steps": 8,
            "max_step_tokens": min(160, length // 4),
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
            "tokens_per_pass": length,
        },
        "evaluation": {
            "max_tokens": min(512, length // 2),
            "num_search_problems": 8,
            "num_samples": 4,
        },
    }


def check_memory(settings: Json, machine: Machine) -> None:
    """Raises ``PsrError`` where a model cannot be trained in the memory of a machine without GPUs."""
    shape: ModelShape | None = model_shape(Config.model_validate(settings).model)
    if shape is not None and shape.parameters * CPU_BYTES / GIB > machine.memory_gib:
        raise PsrError(
            f"--model {settings['model']['base']}: training its {shape.parameters / 1e9:.1f}B weights "
            f"takes {shape.parameters * CPU_BYTES / GIB:.0f} GiB, this machine has "
            f"{machine.memory_gib:.0f}; take a smaller model, or a GPU"
        )
