"""Every setting that a stage reads is in its key: reads are watched."""

import types
import typing

import pytest
from conftest import ROOT
from scripted import converse
from trainings import write_preferences

from psr_ray.config import Config, MethodConfig
from psr_ray.config.base import Frozen
from psr_ray.config.file import load_config
from psr_ray.data.rows import problem_row
from psr_ray.data.stage import evaluation_files, write_data
from psr_ray.embedded.seed import generate_problems, judged_pairs
from psr_ray.inference.tasks import TASKS
from psr_ray.inference.vllm_api import engine_arguments, sampling_params
from psr_ray.method.generation import Completion
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.runs import RunDirectory
from psr_ray.stages import planned_stages
from psr_ray.training.engine import deepspeed_config, load_model
from psr_ray.training.job import TrainingJob
from psr_ray.training.rows import dpo_data, sft_data

# Settings that change no result: a run's place, its speed, permitted failures, the display.
# Number types and weights: model.base is in the key as its content.
FREE = {
    "name", "runs_dir", "shared_dir", "resources_timeout_s", "model.base", "model.trust_remote_code",
    "engine.num_engines", "engine.layout", "engine.max_idle_s",
    "engine.cpus_per_engine", "engine.tensor_parallel_size",
    "engine.max_num_seqs", "engine.kv_cache_gib", "engine.gpu_memory_utilization",
    "engine.enforce_eager", "engine.rows_per_shard", "engine.max_rows_in_flight", "engine.hang_s",
    "engine.max_failed_share",
    "evaluate_every", "keep_models",  # which stages there are, what of them stays
    "seed_data.ift", "seed_data.eft",  # of stages of their own, whose keys are in those of the data
} | {
    f"{kind}.{name}"
    for kind in ("sft", "dpo")
    for name in ("num_workers", "cpus_per_worker", "use_gpu", "tokens_per_pass", "zero_stage",
                 "offload_optimizer", "offload_parameters", "gradient_checkpointing",
                 "checkpoint_steps")
}  # fmt: skip
SETTINGS = ("num_iterations=2", "evaluation.best_of=true", "evaluation.num_samples=2",
            "dpo.solutions_per_batch=2", "judge.mode=explain", "judge.max_tokens=64",
            "judge.max_points_tokens=64", "refresh={num_judgements: 2}")  # fmt: skip
METHODS = (
    {},
    {"unit": "solution", "ranking": "points"},
    {"ranking": "longest"},
    {"judge": "first"},
)


def leaves(model=Config, prefix=""):
    """Every setting by its dotted name, with its type."""
    for name, field in model.model_fields.items():
        kinds = list(typing.get_args(field.annotation) or [field.annotation])
        nested = next((k for k in kinds if isinstance(k, type) and issubclass(k, Frozen)), None)
        if nested is None or typing.get_origin(field.annotation) is tuple:
            yield prefix + name
        elif isinstance(field.annotation, types.UnionType) and name != "refresh":
            yield prefix + name  # a group that may be null: one setting here
        else:
            yield from leaves(nested, f"{prefix}{name}.")


def changed(config, path):
    """The config with another value of a setting."""
    *groups, name = path.split(".")
    nodes = [config]
    for group in groups:
        nodes.append(getattr(nodes[-1], group))
    value = getattr(nodes[-1], name)
    if isinstance(value, bool):
        value = not value
    elif isinstance(value, int | float):
        value = value + 1
    elif isinstance(value, str):
        value = f"{value}-other"
    elif isinstance(value, tuple):
        value = (*value, *value) or ("other",)
    else:
        value = "other"
    updated = nodes[-1].model_copy(update={name: value})
    for node, group in zip(reversed(nodes[:-1]), reversed(groups), strict=True):
        updated = node.model_copy(update={group: updated})
    return updated


def keys(config):
    return {
        planned.stage.name: planned.stage.key for planned in planned_stages(RunDirectory(config))
    }


class Reads:
    """The settings that are read of a config while this is entered."""

    def __init__(self, config, monkeypatch):
        self.found, self.names = set(), {id(config): ""}
        self.kept = [config]  # ids stay theirs
        plain = Frozen.__getattribute__

        def watched(node, name):
            value = plain(node, name)
            if name not in type(node).model_fields:
                return value
            prefix = self.names.get(id(node), "" if type(node) is Config else None)
            if prefix is None:
                return value  # a source: its group was read
            if isinstance(value, Frozen) and prefix + name not in OPTIONAL:
                self.names[id(value)] = f"{prefix}{name}."
                self.kept.append(value)
            else:
                self.found.add(prefix + name)
            return value

        self.patch = (monkeypatch, watched)

    def __enter__(self):
        monkeypatch, watched = self.patch
        monkeypatch.setattr(Frozen, "__getattribute__", watched, raising=False)
        return self

    def __exit__(self, *error):
        self.patch[0].undo()


# Groups that are one setting here: they may be null, or are sources.
OPTIONAL = {"sft.lora", "dpo.lora", "data.ift", "data.eft", "data.eft_solutions", "data.judge",
            "data.heldout", "data.hard", "seed_data.endpoint"}  # fmt: skip


def rows_of(kind):
    [problem] = generate_problems("train", 1, seed=0)
    [pair] = judged_pairs("judge", 1, seed=0)
    row = {"prefix_ids": None, "candidates": None} | problem_row(kind, problem)
    if kind == "probe":
        ids = {"token_ids": [5, 6], "count": 2, "ended": False, "score": 1.0}
        return row | {
            "steps_so_far": [],
            "prefix_ids": [5, 6, 7],
            "candidates": [ids | {"text": "x"}],
        }
    judged = {"steps_so_far": pair.steps_so_far, "step_a": pair.step_a, "step_b": pair.step_b}
    return row | judged | {
        "judgement": pair.judgement, "verdict": pair.verdict, "work": pair.work,
        "critique_a": pair.critique_a, "critique_b": pair.critique_b,
    }  # fmt: skip


def do_tasks(kinds, config, prompts):
    """Tasks under an engine that answers anything."""
    for kind in kinds:
        task = TASKS[kind].run(rows_of(kind), prompts, config)
        converse(task, lambda request: answer(request, prompts.tokenizer))


def answer(request, tokens):
    sampling_params(request, 0)
    texts = ["Step 1: 1+1=2\n", "Step 1: 1+1=3\n"]
    ended = len(request.prompt_ids) > 200
    found = []
    for n in range(request.num_samples):
        ids = tuple(tokens.encode(texts[n % 2]))
        found.append(Completion((*ids, 0), "eos") if ended or request.stop is None else
                     Completion(ids, "stop"))  # fmt: skip
    return found


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The settings that each kind of stage reads, over some methods."""
    folder = tmp_path_factory.mktemp("keys")
    write_preferences(folder)
    found = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for number, method in enumerate(METHODS):
            config = load_config(ROOT / "configs" / "smoke.yaml", SETTINGS)
            config = config.model_copy(update={"method": MethodConfig(**method)})
            prompts = PromptBuilder(load_tokenizer(config.model.base), config.prompts)

            def job(kind, config=config):
                out = folder / "out"
                return TrainingJob(kind, config, config.model.base, kind, out, out, folder, folder)

            def engine(kinds, config=config, prompts=prompts):
                PromptBuilder(prompts.tokenizer, config.prompts)
                engine_arguments("m", config.model, config.engine, config.seed)
                config.engine.seeded_sampling  # noqa: B018 (VllmEngine's)
                do_tasks(kinds, config, prompts)

            def fine_tune(config=config, prompts=prompts, job=job):
                PromptBuilder(prompts.tokenizer, config.prompts)
                sft_data(job("sft"), prompts)
                deepspeed_config(config.sft, config.model.dtype)
                load_model(job("sft"))

            def train(config=config, prompts=prompts, job=job):
                dpo_data(job("dpo"), prompts)
                deepspeed_config(config.dpo, config.model.dtype)
                load_model(job("dpo"))

            def measure(config=config, engine=engine):
                evaluation_files(config, "M1")
                engine(("solve", "sample", "judge", "probe", "search"), config.as_measured())

            stages = {
                "data": lambda c=config, n=number: write_data(c, folder / f"data-{n}"),
                "sft": fine_tune,
                "evaluate-M1": measure,
                "search-2": lambda engine=engine: engine(("search",)),
                "train-2": train,
            }
            for name, do in stages.items():
                with Reads(config, monkeypatch) as reads:
                    do()
                found[name, number] = (config, reads.found)
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_setting_that_a_stage_reads_is_in_its_key(read):
    known = set(leaves())
    for (stage, method), (config, found) in read.items():
        assert found, stage
        base = keys(config)[stage]
        if stage.startswith("evaluate"):  # by the paper's method, whatever the run's
            found = {setting for setting in found if not setting.startswith("method.")}
            found -= {"judge.comparisons", "judge.max_problem_tokens"}
            found = {setting for setting in found if not setting.startswith("refresh.")}
        for setting in sorted(found & known - FREE):
            assert keys(changed(config, setting))[stage] != base, (stage, method, setting)


def test_what_stages_read_is_seen(read):
    """The watch works: settings by name, those that once were missing from their keys among them."""
    _, found = read["sft", 0]
    assert {"model.max_length", "judge.mode", "sft.ift_per_batch"} <= found
    assert "evaluation.max_tokens" in read["search-2", 1][1]
    assert {"search.max_steps", "judge.max_tokens", "engine.seeded_sampling"} <= read[
        "search-2", 0
    ][1]
    assert {"dpo.batch_size", "model.max_length", "dpo.lr"} <= read["train-2", 0][1]
    assert {"data.train", "evaluation.num_search_problems"} <= read["data", 0][1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_settings_of_evaluations_redo_no_data(read):
    config = read["data", 0][0].model_copy(update={"refresh": None})  # its rollouts read it
    before, after = keys(config), keys(changed(config, "evaluation.max_tokens"))
    redone = {name for name in before if before[name] != after[name]}
    assert all(name.startswith("evaluate-") for name in redone)
    assert len(redone) == 4


def test_tokens_per_pass_changes_no_row(tmp_path):
    write_preferences(tmp_path)
    found = []
    for budget in (512, 8192):
        config = load_config(ROOT / "configs" / "smoke.yaml", (f"dpo.tokens_per_pass={budget}",))
        job = TrainingJob("dpo", config, "", "dpo", tmp_path, tmp_path, tmp_path, tmp_path)
        prompts = PromptBuilder(load_tokenizer(config.model.base), config.prompts)
        found.append(dpo_data(job, prompts))
    assert found[0] == found[1]
