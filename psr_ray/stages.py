"""The stages of a run, in order: what each reads, the settings it depends on, who drives it.

    data ─► evaluate-M0 ─► sft (M1) ─► evaluate-M1
         ─► search-1 ─► preferences-1 ─► train-1 (M2) ─► evaluate-M2 ─► search-2 ─► …

Without a fine-tuning (`sft: null`) the base model is M1, and evaluate-M1 follows data.
Stages pass nothing but folders of plain files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from psr_ray.config import Config
from psr_ray.method.prompts import own_templates
from psr_ray.plugins import is_plugin, source_file
from psr_ray.runs import RunDirectory, Stage, digest_of, fingerprint
from psr_ray.storage.files import Json
from psr_ray.training.job import MODEL_FOLDER

Kind = Literal["data", "sft", "search", "preferences", "train", "evaluate"]


@dataclass(frozen=True)
class PlannedStage:
    """A stage in the run's order. Iteration 0 ends with M1; ``model`` is the one used or made."""

    kind: Kind
    iteration: int
    model: str
    stage: Stage

    @property
    def title(self) -> str:
        return {
            "data": "problems and judged pairs",
            "sft": "fine-tune M0 → M1",
            "search": f"search by {self.model}",
            "preferences": "step preferences",
            "train": f"step-DPO → {self.model}",
            "evaluate": f"evaluate {self.model}",
        }[self.kind]


def settings_of(config: Config, *names: str) -> Json:
    """The named settings (``a`` or ``a.b``) as plain values, for a content key; with them, the content
    of the user's own prompt templates and modules that they name."""
    values = config.model_dump(mode="json")
    chosen: Json = {"seed": config.seed}
    folder = own_templates(config.prompts.templates)
    if folder is not None and folder.is_dir() and "prompts" in names:
        chosen["templates"] = digest_of(folder.glob("*.jinja"))
    for name in names:
        node = values
        for part in name.split("."):
            node = node[part]
        chosen[name] = node
    plugins = set(plugins_in(chosen))
    return chosen | ({"plugins": digest_of(map(source_file, plugins))} if plugins else {})


def plugins_in(node: Any) -> Iterator[str]:
    """The names of the user's own code among settings."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name.rpartition(".")[2] in PLUGIN_SETTINGS and is_plugin(str(value)):
                yield value
            else:
                yield from plugins_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from plugins_in(value)


def method_settings(config: Config, name: str) -> Json:
    """Training settings without those that change speed alone."""
    speed = {
        "num_workers",
        "cpus_per_worker",
        "use_gpu",
        "tokens_per_pass",
        "zero_stage",
        "offload_optimizer",
        "offload_parameters",
        "gradient_checkpointing",
        "checkpoint_steps",
    }
    values = config.model_dump(mode="json")[name]
    return {key: value for key, value in values.items() if key not in speed}


# Settings, by the last part of their names, that may name the user's own code.
PLUGIN_SETTINGS = ("mode", "ranking", "objective", "kind")
# Settings that whatever an engine writes depends on.
GENERATION_SETTINGS = (
    "model.dtype",
    "model.max_length",
    "prompts",
    "judge",
    "engine.seeded_sampling",
)


def planned_stages(run: RunDirectory) -> list[PlannedStage]:
    """All stages of a run, in the order in which they are done."""
    config = run.config
    measured = ("evaluation.num_search_problems", "evaluation.num_benchmark_problems")
    fine_tuned = {"fine_tuned": config.sft is not None}
    settings = settings_of(config, "data", "num_iterations", *measured) | fine_tuned
    data = run.stage("data", settings)
    base = run.stage("base", fingerprint(config.model.base))
    plan = [PlannedStage("data", 0, "M0", data)]

    def evaluate(model: str, made_by: Stage, iteration: int, *others: Stage) -> Stage:
        settings = settings_of(config, *GENERATION_SETTINGS, "evaluation", "search")
        stage = run.stage(f"evaluate-{model}", settings, [data, made_by, *others])
        plan.append(PlannedStage("evaluate", iteration, model, stage))
        return stage

    made_by = base
    if config.sft is not None:
        evaluate("M0", base, 0)
        rows = (
            "model.dtype",
            "model.max_length",
            "prompts",
            "judge.mode",
            "judge.max_thinking_tokens",
        )
        sft_settings = settings_of(config, *rows)
        made_by = run.stage("sft", sft_settings | method_settings(config, "sft"), [data, base])
        plan.append(PlannedStage("sft", 0, "M1", made_by))
    first = made_by
    probes = evaluate("M1", made_by, 0)
    for k in range(1, config.num_iterations + 1):
        searching = config.in_iteration(k)
        whole = ("evaluation.max_tokens",) if searching.method.unit == "solution" else ()
        method = ("method.unit", "method.ranking", "method.judge")
        unread = ("judge",) if searching.method.without_judge else ()
        names = (name for name in GENERATION_SETTINGS if name not in unread)
        settings = settings_of(searching, *names, "search", *method, *whole)
        judges = [first] if searching.method.first_judges else []
        search = run.stage(f"search-{k}", settings, [data, made_by, *judges])
        preferences = run.stage(f"preferences-{k}", {}, [search])
        settings = settings_of(config, "model.dtype", "method.objective")
        settings |= method_settings(config, "dpo")
        made_by = run.stage(f"train-{k}", settings, [preferences, made_by])
        plan.append(PlannedStage("search", k, f"M{k}", search))
        plan.append(PlannedStage("preferences", k, f"M{k}", preferences))
        plan.append(PlannedStage("train", k, f"M{k + 1}", made_by))
        evaluate(f"M{k + 1}", made_by, k, probes)
    return plan


def model_path(plan: list[PlannedStage], model: str, config: Config) -> str:
    """The folder of the model that the run starts from (the config's), or of one that it made."""
    if model == config.model_names[0]:
        return config.model.base
    [made_by] = [
        planned for planned in plan if planned.kind in ("sft", "train") and planned.model == model
    ]
    return str(made_by.stage.folder / MODEL_FOLDER)


def made_models(plan: list[PlannedStage]) -> list[str]:
    """The models that the run has made, first to last."""
    return [p.model for p in plan if p.kind in ("sft", "train") and p.stage.is_complete]


def force(plan: list[PlannedStage], name: str) -> list[str]:
    """Forget a stage and every later one; returns the names forgotten (none: no such stage)."""
    names = [planned.stage.name for planned in plan]
    if name not in names:
        return []
    gone = plan[names.index(name) :]
    for planned in gone:
        planned.stage.remove()
    return [planned.stage.name for planned in gone]
