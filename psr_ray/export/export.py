"""A run's model and data in one folder, ready to publish.

model/         the model as a Hugging Face folder, with its card
ift/  eft/     what M1 was fine-tuned on        preferences/    the step preferences up to the model
"""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from psr_ray.errors import PsrError
from psr_ray.export.cards import write_dataset_card, write_model_card
from psr_ray.export.datasets import DatasetWriter
from psr_ray.report.summary import summarize
from psr_ray.run_models import made_models, model_path
from psr_ray.runs import RunDirectory
from psr_ray.stages import PlannedStage, planned_stages
from psr_ray.storage.files import write_text
from psr_ray.storage.folders import disk_checked
from psr_ray.storage.locations import local_copy, location

DATASETS = ("ift", "eft", "preferences")
# In a folder whose parts an export may replace.
MARK = ".psr-ray-export"


def model_to_export(plan: list[PlannedStage], name: str | None) -> str:
    """The model asked for, or the last one that is made. Raises ``PsrError`` where it is not, or where
    its weights are gone."""
    made = made_models(plan)
    if not made:
        raise PsrError(f"{plan[0].stage.folder.parent}: no model is made yet; run it first")
    if name is None:
        return made[-1]
    if name not in made:
        raise PsrError(
            f"--model {name}: the run has the weights of {', '.join(made)} (others are not made yet, or "
            "keep_models has removed them)"
        )
    return name


def license_of(base: str) -> str | None:
    """The license in the card of a model folder; None where there is no card or no license in it."""
    from huggingface_hub import ModelCard

    card = location(base) / "README.md"
    if not card.is_file():
        return None
    try:
        found = getattr(ModelCard(card.read_text(encoding="utf-8")).data, "license", None)
    except (ValueError, yaml.YAMLError):  # not YAML, or not a card's
        return None
    return None if found is None else str(found)


def export_run(run: RunDirectory, name: str | None, folder: Path, license_: str | None) -> str:
    """Write the export of a model into a folder, replacing an earlier one; returns the model's name.

    Raises ``PsrError`` where the model is not made, or not evaluated.
    """
    plan, config = planned_stages(run), run.config
    name = model_to_export(plan, name)
    summary = summarize(run)
    evaluated = {
        planned.model
        for planned in plan
        if planned.kind == "evaluate" and planned.stage.is_complete
    }
    if name not in evaluated:
        others = [model for model in made_models(plan) if model in evaluated]
        raise PsrError(
            f"{run.path}: {name} is not evaluated; a card needs its figures"
            + (f" (--model {'|'.join(others)}: those that are)" if others else "")
        )
    # an evaluation of an earlier config is not of the present model
    summary["models"] = [entry for entry in summary["models"] if entry["name"] in evaluated]
    summary["alarms"] = [alarm for alarm in summary["alarms"] if alarm["model"] in evaluated]
    license_ = license_ or license_of(config.model.base)
    stages = {planned.stage.name: planned.stage.folder for planned in plan}
    model = local_copy(model_path(plan, name, config))
    clear(folder)
    with disk_checked(folder):
        shutil.copytree(model, folder / "model")
        (folder / "model" / "README.md").unlink(missing_ok=True)
        write_model_card(folder / "model", summary, config, name, license_)
        writer = DatasetWriter(config, model, stages["data"])
        preferences = {k: stages[f"preferences-{k}"] for k in range(1, int(name.removeprefix("M")))}
        written = {"preferences": writer.preferences(folder / "preferences", preferences)}
        if config.sft is not None:
            written["ift"] = writer.ift(folder / "ift")
            written["eft"] = writer.eft(folder / "eft")
        for kind, files in written.items():
            if files:
                write_dataset_card(folder / kind, kind, files, summary, config, license_)
    return name


def clear(folder: Path) -> None:
    """Make room for an export. Raises ``PsrError`` where it would replace what no export wrote."""
    there = [folder / part for part in ("model", *DATASETS) if (folder / part).exists()]
    if there and not (folder / MARK).is_file():
        raise PsrError(
            f"folder {folder}: holds {there[0].name}/, which no export wrote; give another --out"
        )
    for part in there:
        shutil.rmtree(part)
    write_text(folder / MARK, "Made by psr-ray export: a new one replaces the folders beside it.\n")
