"""The stages of a run, in order: what each reads, the settings it depends on, who drives it.

    (seed-ift, seed-eft ─►) data ─► evaluate-M0 ─► sft (M1) ─► evaluate-M1
         ─► search-1 ─► preferences-1 ─► train-1 (M2) ─► evaluate-M2 ─► search-2 ─► …

The seed stages are there where `seed_data` asks for them. Without a fine-tuning (`sft: null`) the base
model is M1, and evaluate-M1 follows data. Stages pass nothing but folders of plain files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from psr_ray.config import Config, RefreshConfig
from psr_ray.method.prompts import own_templates
from psr_ray.plugins import is_plugin, source_file
from psr_ray.runs import RunDirectory, Stage, content_key, digest_of, fingerprint
from psr_ray.storage.files import Json

Kind = Literal["seed", "data", "sft", "search", "preferences", "train", "evaluate"]


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
            "seed": f"seed data: {self.stage.name.removeprefix('seed-').upper()}",
            "data": "problems and judged pairs",
            "sft": "fine-tune M0 → M1",
            "search": f"search by {self.model}",
            "preferences": "step preferences",
            "train": f"step-DPO → {self.model}",
            "evaluate": f"evaluate {self.model}",
        }[self.kind]


def settings_of(config: Config, *names: str, **others: Any) -> Json:
    """The named settings (``a`` or ``a.b``) as plain values, for a content key, with ``others``; also
    the content of the user's own prompt templates and modules that they name."""
    values = config.model_dump(mode="json")
    chosen: Json = {"seed": config.seed} | others
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
    """Training settings without those that change speed alone (and ``schedule_over``, which is in a
    key where it is not the default)."""
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
        "schedule_over",
    }
    values = config.model_dump(mode="json")[name]
    return {key: value for key, value in values.items() if key not in speed}


def settings_that_count(config: Config) -> Json:
    """All settings that a run's results depend on, by their whole names, but for its base model."""
    names = ("search", "evaluation", "data", "seed_data", "num_iterations", "method", "refresh")
    found = settings_of(config, *GENERATION_SETTINGS, *names)
    for name in config.trainings():
        found[name] = method_settings(config, name)
    return dict(flat(found))


def flat(node: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings in nested groups by their whole names."""
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def refresh_settings(refresh: RefreshConfig, *, of_training: bool) -> Json:
    """The settings of `refresh` that a training reads, or those that a search does."""
    values = refresh.model_dump(mode="json")
    names = {"per_batch", "replay"} if of_training else values.keys() - {"per_batch", "replay"}
    return {f"refresh.{name}": values[name] for name in names}


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


# Settings by which IFT and EFT rows become token ids.
EXAMPLES = (
    "model.dtype",
    "model.max_length",
    "prompts",
    "judge.mode",
    "judge.critiques",
    "judge.max_thinking_tokens",
)
# Settings that step trees depend on, and the judging of their pairs.
TREE_SETTINGS = (
    *GENERATION_SETTINGS,
    "search",
    "evaluation.max_tokens",
    "seed_data.num_rollouts",
    "seed_data.temperature",
    "seed_data.top_p",
)
# Settings that decide the problems which models are measured on, and M1's rows.
HELD_OUT = (
    "data.heldout",
    "data.hard",
    "data.judge",
    "data.benchmarks",
    "data.decontaminate",
)
SIZES = ("evaluation.num_search_problems", "evaluation.num_benchmark_problems")
SEED_ROWS = ("data.ift", "data.eft", "data.eft_solutions")
JUDGED = ("seed_data.min_gap", "seed_data.num_test", "seed_data.max_tokens")


def writer_name(config: Config, model: str) -> str:
    """Identity of the teacher: the server's model, or the local model's fingerprint."""
    endpoint = config.seed_data.endpoint
    return f"{endpoint.url} {endpoint.model}" if endpoint else fingerprint(model)


def seed_stages(run: RunDirectory) -> list[Stage]:
    """The stages that make the run's IFT and EFT rows."""
    config, seed = run.config, run.config.seed_data
    kept_out = ("data.benchmarks", "data.decontaminate")
    stages, base = list[Stage](), config.model.base
    if seed.ift is not None:
        settings = settings_of(config, *kept_out, "seed_data.ift")
        if seed.ift.divide_by == "model":
            settings |= settings_of(config, *GENERATION_SETTINGS, "seed_data.max_tokens")
            settings["writer"] = writer_name(config, base)
        stages.append(run.stage("seed-ift", settings, nested=("divisions",)))
    if seed.eft is not None:
        settings = settings_of(config, *kept_out, "seed_data.eft", *TREE_SETTINGS, *JUDGED)
        searcher = seed.eft.model or base
        settings["searcher"] = fingerprint(searcher)
        settings["writer"] = writer_name(config, seed.eft.judge or searcher)
        stages.append(
            run.stage("seed-eft", settings, nested=("trees", "work", "critiques", "judgements"))
        )
    return stages


def with_seed_files(config: Config, plan: list[PlannedStage]) -> Config:
    """The config whose sources of kind `seed` are the files that its seed stages have made."""
    folders = {p.stage.name: p.stage.folder for p in plan if p.kind == "seed"}
    made = {
        "ift": ("seed-ift", "ift"),
        "eft": ("seed-eft", "eft"),
        "judge": ("seed-eft", "eft_test"),
    }
    updates = {
        name: source.model_copy(
            update={"kind": "file", "path": str(folders[stage] / f"{file}.parquet")}
        )
        for name, (stage, file) in made.items()
        if (source := getattr(config.data, name)) is not None and source.kind == "seed"
    }
    return config.model_copy(update={"data": config.data.model_copy(update=updates)})


def planned_stages(run: RunDirectory) -> list[PlannedStage]:
    """All stages of a run, in the order in which they are done."""
    config = run.config
    seeds = seed_stages(run)
    fine_tuned = config.sft is not None

    def data_of(*names: str, **others: Any) -> Stage:
        """The files of the data stage that these settings decide: what has been made of them is kept
        where others change, with more rounds, say. Its key alone is used."""
        key = content_key("data", settings_of(config, *names, **others), [s.key for s in seeds])
        return Stage("data", run.path / "data", key)

    settings = settings_of(config, "data", "num_iterations", *SIZES, fine_tuned=fine_tuned)
    data = run.stage("data", settings, seeds)
    measured_on = data_of(*HELD_OUT, *SIZES)
    base = run.stage("base", fingerprint(config.model.base))
    plan = [PlannedStage("seed", 0, "M0", stage) for stage in seeds]
    plan.append(PlannedStage("data", 0, "M0", data))

    def evaluate(model: str, made_by: Stage, iteration: int, *others: Stage) -> Stage:
        measured = config.as_measured()
        settings = settings_of(measured, *GENERATION_SETTINGS, "evaluation", "search")
        stage = run.stage(f"evaluate-{model}", settings, [measured_on, made_by, *others])
        plan.append(PlannedStage("evaluate", iteration, model, stage))
        return stage

    made_by = base
    if config.sft is not None:
        evaluate("M0", base, 0)
        sft_settings = settings_of(config, *EXAMPLES)
        sft_settings |= method_settings(config, "sft")
        made_by = run.stage("sft", sft_settings, [data_of(*HELD_OUT, *SEED_ROWS), base])
        plan.append(PlannedStage("sft", 0, "M1", made_by))
    first, dealt = made_by, list[Json]()
    probes = evaluate("M1", made_by, 0)
    for k in range(1, config.num_iterations + 1):
        searching = config.in_iteration(k)
        whole = ("evaluation.max_tokens",) if searching.method.unit == "solution" else ()
        method = ("method.unit", "method.ranking", "method.judge")
        unread = ("judge",) if searching.method.without_judge and not config.refresh else ()
        names = (name for name in GENERATION_SETTINGS if name not in unread)
        settings = settings_of(searching, *names, "search", *method, *whole)
        if config.refresh is not None:
            settings |= refresh_settings(config.refresh, of_training=False)
            settings |= settings_of(config, "evaluation.max_tokens")  # of rollouts
        judges = [first] if searching.method.other_judges else []
        dealt.append(config.train_source(k).model_dump(mode="json"))
        problems = data_of(*HELD_OUT, *SEED_ROWS, fine_tuned=fine_tuned, train=dealt)
        search = run.stage(f"search-{k}", settings, [problems, made_by, *judges])
        preferences = run.stage(f"preferences-{k}", {}, [search])
        settings = settings_of(config, "model.dtype", "method.objective")
        settings |= method_settings(config, "dpo")
        if config.refresh is not None:  # what it adds to batches
            settings |= settings_of(config, *EXAMPLES)
            settings |= refresh_settings(config.refresh, of_training=True)
        if config.dpo.schedule_over != "round":
            settings["round"] = [k, config.num_iterations]
        made_by = run.stage(f"train-{k}", settings, [preferences, made_by])
        plan.append(PlannedStage("search", k, f"M{k}", search))
        plan.append(PlannedStage("preferences", k, f"M{k}", preferences))
        plan.append(PlannedStage("train", k, f"M{k + 1}", made_by))
        if k % config.evaluate_every == 0 or k == config.num_iterations:
            evaluate(f"M{k + 1}", made_by, k, probes)
    return plan
