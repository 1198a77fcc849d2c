"""A first config for a model and problems: psr-ray init."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
import yaml

from psr_ray.cli.app import app, console, user_errors
from psr_ray.errors import PsrError
from psr_ray.storage.files import Json

# What a reader of the new config should know about its sections.
REMARKS = {
    "num_iterations": "rounds of search, preferences and step-DPO; the paper makes 3",
    "data": "problems to search and to measure with; docs/bring-your-model.md lists other sources",
    "seed_data": "rows of the fine-tuning; set eft.judge or endpoint: a judge that follows instructions",
    "prompts": 'a step\'s beginning is given to the model; "\\n\\n": paragraphs are steps',
    "sft": "null: the model is M1 as it is",
    "judge": "explain: reasoning, then a verdict; shared, verdict: cheaper (docs/judging.md)",
    "engine": "least and most engines, GPUs of each (0: CPU)",
    "dpo": "training (memory: psr-ray plan); lr, if not set, is 5e-7, for 7B and more: "
    "docs/bring-your-model.md has how to find yours",
}


def config_text(settings: Json) -> str:
    """Settings as YAML, a line or a few each, with remarks. The settings' page has all the others."""
    lines = []
    for key, value in settings.items():
        if key in REMARKS:
            lines.append(f"# {REMARKS[key]}")
        if key == "data":
            lines.append("data:")
            lines += [f"  {name}: {flow(item)}" for name, item in value.items()]
        else:
            lines.append(f"{key}: {flow(value)}")
    return "\n".join(lines) + "\n"


class OneLine(yaml.SafeDumper):
    """Writes texts with newlines in double quotes, as `"\\n"`."""


def represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if "\n" in text else None
    )


OneLine.add_representer(str, represent)


def flow(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.dump(value, Dumper=OneLine, default_flow_style=True, sort_keys=False, width=10**6)
    return str(text).removesuffix("\n").removesuffix("\n...")


@app.command()
@user_errors
def init(
    name: Annotated[str, typer.Argument(help="name of the run; the config is NAME.yaml")],
    model: Annotated[str, typer.Option(help="folder or Hub id")],
    problems: Annotated[
        str, typer.Option(help="gsm8k, numinamath, …, a file or a Hub id")
    ] = "gsm8k",
    benchmarks: Annotated[
        list[str] | None, typer.Option("--benchmark", help="name or file; may be repeated")
    ] = None,
    num: Annotated[
        int | None, typer.Option(min=1, help="problems to search a round; default: by recipe")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="paper, instruct, lora or cpu; default: by model and machine")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs of a node of the cluster")] = None,
    gpu: Annotated[str | None, typer.Option(help="their kind (h100, a100, …)")] = None,
) -> None:
    """Write a config that fits the model and this machine (or the cluster at RAY_ADDRESS); check it."""
    from pydantic import ValidationError

    from psr_ray.config.file import describe_errors, load_config
    from psr_ray.doctor import print_checks
    from psr_ray.planning.choose import Recipe, chosen_settings, default_recipe
    from psr_ray.planning.facts import model_facts
    from psr_ray.planning.machine import Machine, cluster_machine, this_machine
    from psr_ray.planning.show import gpu_of

    if not re.fullmatch(r"\w[\w.-]*", name):
        raise PsrError(f"{name!r}: a run's name has letters, digits, `_`, `.` and `-`, no folder")
    path = Path(f"{name}.yaml")
    if path.exists():
        raise PsrError(f"{path} is there already; give another name, or delete it")
    if recipe is not None and recipe not in get_args(Recipe):
        raise PsrError(f"--recipe {recipe}: take {', '.join(get_args(Recipe))}")
    if (gpus is None) != (gpu is None):
        raise PsrError("--gpus and --gpu: give both, as --gpus 8 --gpu h100")
    facts = model_facts(model)
    if gpus is not None and gpu is not None:
        here = this_machine()
        machine = Machine(gpus, gpu_of(gpu).memory_gib, here.cores, here.memory_gib)
    else:
        machine = cluster_machine() if "RAY_ADDRESS" in os.environ else this_machine()
    if recipe is None:
        recipe, why = default_recipe(facts, machine)
        console.print(f"recipe {recipe}: {why}; --recipe takes another one", soft_wrap=True)
    chosen, asked = cast(Recipe, recipe), list(benchmarks or ())
    try:
        settings = chosen_settings(name, facts, machine, chosen, problems, asked, num)
    except ValidationError as error:
        raise PsrError(f"--model {model}: does not fit a run: {describe_errors(error)}") from error
    path.write_text(
        f"# Written by psr-ray init, recipe {recipe}; docs/settings.md has every setting.\n"
        + config_text(settings)
    )
    kind = f" --gpu {gpu}" if gpu else ""
    console.print(f"written: {path}; next:")
    console.print(f"  psr-ray plan --config {path}{kind}", soft_wrap=True)
    console.print(f"  psr-ray run --config {path}", soft_wrap=True)
    print_checks(load_config(path), console)
