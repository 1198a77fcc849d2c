"""The models of a run: where they are, whose weights are there; forgetting stages that need them."""

from __future__ import annotations

from psr_ray.config import Config
from psr_ray.errors import PsrError
from psr_ray.runs import MODEL_FOLDER, WEIGHTS_MARK
from psr_ray.stages import PlannedStage
from psr_ray.storage.files import Json
from psr_ray.storage.locations import remove


def model_path(plan: list[PlannedStage], model: str, config: Config) -> str:
    """The folder of the model that the run starts from (the config's), or of one that it made."""
    if model == config.model_names[0]:
        return config.model.base
    [made_by] = [
        planned for planned in plan if planned.kind in ("sft", "train") and planned.model == model
    ]
    return str(made_by.stage.folder / MODEL_FOLDER)


def evaluated_before(plan: list[PlannedStage], model: str) -> str:
    """The model evaluated before another one, M1 at the earliest."""
    names = [p.model for p in plan if p.kind == "evaluate" and p.model != "M0"]
    place = names.index(model) if model in names else 0
    return names[max(place - 1, 0)]


def manifests_of(plan: list[PlannedStage]) -> tuple[dict[str, Json], list[str]]:
    """The manifests of complete stages, by stage, and the names of stages that are outdated: of other
    settings than the run's, or of another version, and older than a stage before them, done again."""
    done, outdated, newest = dict[str, Json](), list[str](), 0.0
    for planned in plan:
        stage = planned.stage
        if (manifest := stage.manifest) is None:
            continue
        finished_at = manifest.get("finished_at", 0.0)
        if stage.is_complete:
            newest = max(newest, finished_at)
        elif finished_at < newest:
            outdated.append(stage.name)
            continue
        done[stage.name] = manifest
    return done, outdated


def made_models(plan: list[PlannedStage]) -> list[str]:
    """The models that the run has made and whose weights are there, first to last."""
    made = [p for p in plan if p.kind in ("sft", "train") and p.stage.is_complete]
    return [p.model for p in made if p.stage.has_model]


def drop_old_models(config: Config, plan: list[PlannedStage]) -> None:
    """Remove the weights that ``config.keep_models`` does not keep: those of models that no stage still
    needs. Another run's, which this one shares, stay."""
    made = [p for p in plan if p.kind == "train" and p.stage.is_complete]
    for planned in made[: -config.keep_models] if config.keep_models else []:
        readers = [p for p in plan if p is not planned and planned.model in models_read(p)]
        if is_own(config, planned) and all(reader.stage.is_complete for reader in readers):
            folder = planned.stage.folder / MODEL_FOLDER
            (folder / WEIGHTS_MARK).unlink(missing_ok=True)  # half removed, it is no model
            remove(folder)


def models_read(planned: PlannedStage) -> list[str]:
    """The models that a stage loads."""
    if planned.kind in ("search", "evaluate"):
        return [planned.model]
    return [f"M{planned.iteration}"] if planned.kind in ("sft", "train") else []


def check_weights(config: Config, plan: list[PlannedStage], due: list[PlannedStage]) -> None:
    """Raises ``PsrError`` where a stage that is due loads a model whose weights were removed, and that
    no stage that is due makes again."""
    kept = [p for p in plan if p.kind in ("sft", "train") and p not in due]
    gone = {p.model: p for p in kept if p.stage.is_complete and not p.stage.has_model}
    for planned in due:
        for model in models_read(planned):
            if model in gone:
                first = gone[model]  # of those up to it that are gone without a break
                for maker in reversed(kept[: kept.index(first)]):
                    if maker.model not in gone:
                        break
                    first = maker
                remedy = f"--force {first.stage.name} makes it again, with all that comes after"
                if not is_own(config, first):
                    remedy = "the run in shared_dir made it: do this run without shared_dir"
                raise PsrError(
                    f"{planned.stage.name} needs {model}, whose weights are gone (keep_models); "
                    f"{remedy}"
                )


def force(config: Config, plan: list[PlannedStage], name: str) -> list[str]:
    """Forget a stage and every later one of the run's own; returns their names.

    Raises ``PsrError``, before anything is forgotten, where there is no such stage, where it is another
    run's, or where it needs a model whose weights are gone."""
    names = [planned.stage.name for planned in plan]
    if name not in names:
        raise PsrError(f"--force {name}: no such stage; the stages are {', '.join(names)}")
    if not is_own(config, plan[names.index(name)]):
        raise PsrError(f"--force {name}: that stage is of the run in shared_dir; force it there")
    gone = [planned for planned in plan[names.index(name) :] if is_own(config, planned)]
    check_weights(config, plan, gone)
    for planned in gone:
        planned.stage.remove(everything=True)
    return [planned.stage.name for planned in gone]


def is_own(config: Config, planned: PlannedStage) -> bool:
    """Whether a stage is in the run's own folder, not in that of a run which it shares."""
    return planned.stage.folder.parent == config.run_dir
