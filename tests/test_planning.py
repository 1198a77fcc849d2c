"""`psr-ray plan`: the numbers of known models, what fits on a GPU, tokens against measured demo runs."""

import io
import json
import re
from dataclasses import replace

import pytest
from conftest import ROOT
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM

from psr_ray.config import LoraConfig
from psr_ray.config.file import load_config
from psr_ray.doctor import check_disk
from psr_ray.errors import PsrError
from psr_ray.planning.cost import GPUS, generation_hours, training_hours
from psr_ray.planning.judging import judge_of_step
from psr_ray.planning.lengths import PAPER, lengths_of, rows_lengths
from psr_ray.planning.memory import (
    GIB,
    SCORED_AT_ONCE,
    check_fits,
    engine_memory,
    most_on_disk,
    training_memory,
)
from psr_ray.planning.model import model_shape
from psr_ray.planning.show import disk_line, judge_line, print_plan
from psr_ray.planning.wall import LAYOUTS, Overheads, StageTime, layout_time
from psr_ray.planning.work import refresh_work, search_work
from psr_ray.storage.locations import local_copy
from psr_ray.training.logprobs import CHUNK

SEVEN = "configs/qwen2.5-math-7b.yaml"


def shape_of(config):
    return model_shape(config.model)


@pytest.mark.parametrize(
    ("base", "published"),
    [
        ("Qwen/Qwen2.5-Math-1.5B", 1.54e9),
        ("Qwen/Qwen2.5-Math-7B", 7.62e9),
        ("Qwen/Qwen2.5-Math-72B", 72.7e9),
    ],
)  # fmt: skip
def test_known_models_have_their_published_sizes(base, published):
    shape = shape_of(load_config(SEVEN, [f"model.base={base}"]))
    assert shape.parameters == pytest.approx(published, rel=0.005)


def test_embedded_model_is_counted_as_torch_counts_it():
    config = load_config("configs/demo.yaml")
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(local_copy(config.model.base))
    )
    assert shape_of(config).parameters == pytest.approx(model.num_parameters(), rel=0.002)


def test_zero_stages_and_offload_divide_what_they_divide():
    config = load_config(SEVEN)
    shape, dpo = shape_of(config), config.dpo

    def memory(**changes):
        return training_memory(shape, dpo.model_copy(update=changes))

    whole = memory(zero_stage=0)
    n = dpo.num_workers
    assert whole.weights == pytest.approx(shape.parameters * 2 / 2**30)
    assert whole.optimizer == pytest.approx(shape.parameters * 12 / 2**30)
    assert memory(zero_stage=1).optimizer == pytest.approx(whole.optimizer / n)
    assert memory(zero_stage=1).gradients == whole.gradients
    assert memory(zero_stage=2).gradients == pytest.approx(whole.gradients / n)
    assert memory(zero_stage=2).weights == whole.weights
    assert memory(zero_stage=3).weights < whole.weights / n * 1.7  # and two layers, gathered
    offloaded = memory(zero_stage=3, offload_optimizer=True)
    assert offloaded.optimizer == 0
    assert offloaded.host == pytest.approx(memory(zero_stage=3).optimizer)
    assert memory(gradient_checkpointing=False).activations > 5 * memory().activations
    assert memory(lora=LoraConfig()).optimizer < memory().optimizer / 50


@pytest.mark.parametrize(
    ("settings", "gpu", "said"),
    [
        ([], "h100", None),
        (["model.base=Qwen/Qwen2.5-Math-72B"], "h100", r"raise engine\.tensor_parallel_size \(now 1\)"),
        (["dpo.zero_stage=0"], "h100", r"dpo: a worker needs .* set dpo\.zero_stage to 3 \(now 0\)"),
        (["sft.gradient_checkpointing=false"], "a100-40", r"set sft\.gradient_checkpointing to true"),
        (["dpo.tokens_per_pass=200000"], "h100", r"lower dpo\.tokens_per_pass \(now 200000\)"),
        (["dpo.num_workers=1"], "h100", r"set dpo\.offload_optimizer to true, or raise dpo\.num_w"),
        (["engine.gpu_memory_utilization=0.18"], "a100", r"gpu_memory_utilization"),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_with_the_setting_to_change(settings, gpu, said):
    config = load_config(SEVEN, settings)
    console = Console(width=200, file=io.StringIO())
    if said is None:
        print_plan(config, console, gpu=gpu, price=2.0)
        said = " ".join(console.file.getvalue().split())
        assert "GPU-hours of work on h100" in said
        assert "not counted) engine.layout restart" in said
        [(hours, gpus, held, money)] = re.findall(
            r"engine.layout restart: about ([\d.]+) hours on (\d+) GPUs: ([\d.,]+) GPU-hours held, "
            r"([\d.,]+) at 2 each",
            said,
        )
        held, money = (float(text.replace(",", "")) for text in (held, money))
        assert held == pytest.approx(float(hours) * int(gpus), rel=0.05)
        assert money == pytest.approx(2 * held, rel=0.05)
        return
    with pytest.raises(PsrError, match=said):
        print_plan(config, console, gpu=gpu)
    with pytest.raises(PsrError, match="known are"):
        print_plan(config, console, gpu="abacus")


def test_more_gpus_hold_more_cache_and_cost_no_more_hours():
    config = load_config("configs/qwen2.5-math-72b.yaml")
    shape, gpu = shape_of(config), GPUS["h100"]
    four = engine_memory(shape, config, gpu.memory_gib)
    assert 4 * four.weights == pytest.approx(shape.weight_bytes / 2**30)
    check_fits(config, shape, gpu.memory_gib)
    hours = generation_hours(config, shape, gpu, 1e6, 1e6, 500)
    wider = config.engine.model_copy(update={"tensor_parallel_size": 8})
    assert generation_hours(
        config.model_copy(update={"engine": wider}), shape, gpu, 1e6, 1e6, 500
    ) == pytest.approx(hours)
    once = training_hours(shape, config.dpo, gpu, 1e6, reference=False)
    assert training_hours(shape, config.dpo, gpu, 1e6, reference=True) == pytest.approx(1.25 * once)


def test_tokens_are_within_15_percent_of_the_measured_demo():
    config = load_config("configs/demo.yaml")
    summary = json.loads((ROOT / "docs" / "demo" / "summary.json").read_text())
    models = {entry["name"]: entry for entry in summary["models"]}
    lengths = rows_lengths(config)
    for name in ("M1", "M2", "M3", "M4"):  # greedy solutions, from the IFT rows alone
        measured = models[name]["steps_per_solution"] * models[name]["tokens_per_step"]
        assert lengths.solution == pytest.approx(measured, rel=0.15)
    for k in (1, 2, 3):  # searches, once the model that searches was evaluated
        known = models[f"M{k}"]["test_time"]["search_tokens"]
        learned = models[f"M{k + 1}"]["learned_from"]
        measured = learned["num_sampled_tokens"] + learned["num_judge_tokens"]
        knowing = lengths.__class__(**vars(lengths) | {"tokens_per_search": known})
        work = search_work(config, config.train_source(k), learned["num_searches"], knowing)
        assert work.tokens == pytest.approx(measured, rel=0.15)
        assert work.most > work.tokens


def test_steps_are_counted_by_the_text_that_ends_them_whether_or_not_it_has_a_number(tmp_path):
    solved = {"problem": "1+1+1?", "solution": "Step 1: 1+1=2\nStep 2: 2+1=3\nStep 3: \\boxed{3}"}
    judged = {"problem": "1+1?", "step_a": "2", "step_b": "3", "judgement": "[[A]]", "verdict": "A"}
    for name, row in (("ift", solved), ("eft", judged)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    sources = [f"data.{n}={{kind: file, path: {tmp_path / n}.jsonl}}" for n in ("ift", "eft")]
    for stop in ('"\\nStep "', '"\\nStep {n}:"'):
        config = load_config("configs/smoke.yaml", [*sources, f"prompts.step_stop={stop}"])
        assert rows_lengths(config).steps == 3


def test_lengths_fall_back_to_the_papers_where_files_are_not_there():
    assert lengths_of(load_config(SEVEN)) == PAPER


def test_the_judges_tokens_follow_the_way_of_judging():
    """A step of the 7B config: 30 judgements of 300 tokens in the paper's way."""

    def step(*settings):
        return judge_of_step(load_config(SEVEN, settings), PAPER)

    whole = step("judge.comparisons=all")
    assert (whole.requests, whole.tokens) == (30, 9000)
    assert whole.most == 30 * load_config(SEVEN).judge.max_tokens
    assert step("judge.comparisons=knockout").requests == 14
    assert 14 < step().requests < 30
    assert step().most == whole.most  # where all scores are equal, all are asked
    shared = step("judge.mode=shared", "judge.comparisons=all")
    assert (shared.requests, shared.tokens) == (31, PAPER.work + 30)
    noted = step("judge.mode=shared", "judge.critiques=true", "judge.comparisons=all")
    assert (noted.requests, noted.tokens) == (37, PAPER.work + 6 * PAPER.critique + 30)
    assert noted.tokens < whole.tokens / 4
    assert step("judge.mode=verdict", "judge.comparisons=all").tokens == 30
    line = judge_line(load_config(SEVEN), PAPER)
    assert "explain, all: 9,000; explain, needed: 8,100" in line
    assert "shared, needed, critiques: 339" in line
    assert not judge_line(load_config(SEVEN, ["method.ranking=random"]), PAPER)


def test_a_measured_search_is_scaled_by_the_way_of_judging_and_its_budget():
    """The evaluation that it was measured in compares all pairs."""
    measured = replace(PAPER, tokens_per_search=1000.0, judge_per_search=900.0)

    def tokens(*settings):
        config = load_config(SEVEN, settings)
        return search_work(config, config.train_source(1), 100, measured).tokens

    assert tokens("judge.comparisons=all") == 100_000
    assert tokens("judge.comparisons=knockout") == round(100 * (100 + 900 * 14 / 30))
    assert tokens() == round(100 * (100 + 900 * 0.9))
    budget = "judge.max_problem_tokens=36000"  # half of 8 steps with 9,000 tokens
    assert tokens("judge.comparisons=all", budget) == 55_000


def test_judging_own_steps_again_is_counted_by_the_way_of_judging():
    """A judge that writes nothing is asked once in each order, for one token."""

    def work(*settings):
        config = load_config("configs/demo.yaml", ["refresh.pairs_per_problem=1", *settings])
        return refresh_work(config, PAPER, rows=10, steps=40)

    told, named = work(), work("judge.mode=verdict")
    rollouts = 10 * 2 * 8
    assert told.requests == 10 * 2 * 4 + rollouts
    assert named.requests == 10 * 2 + rollouts
    assert told.most - named.most == 10 * 2 * (
        4 * load_config("configs/demo.yaml").judge.max_tokens - 1
    )


def test_layouts_differ_by_their_starts_and_the_gpus_they_hold():
    over = Overheads(engine_start=100, engine_load=10, group_start=40, training=20, stage=1)
    rounds = [StageTime("M1", 80)]  # evaluation of M1
    for k in (1, 2):
        rounds += [StageTime(f"M{k}", 160), StageTime(None, 40), StageTime(f"M{k + 1}", 80)]
    work = 80 + 2 * 280
    spent = {
        layout: layout_time(rounds, layout, 8, 4, over, keeps_workers=layout != "restart")
        for layout in LAYOUTS
    }
    waits = (80 + 2 * 240) / 8 + 2 * 40 / 4 + 5 * 1 + 2 * 20
    assert spent["restart"].wall_s == pytest.approx(waits + 3 * 100 + 2 * 40)
    assert spent["colocated"].wall_s == pytest.approx(waits + 100 + 2 * 10 + 40)
    assert spent["apart"].wall_s == spent["colocated"].wall_s
    assert spent["colocated"].busy_share == pytest.approx(work / (8 * spent["colocated"].wall_s))
    assert spent["apart"].busy_share == pytest.approx(work / (12 * spent["apart"].wall_s))


def test_the_plan_says_what_models_take_on_disk(tmp_path):
    values = {"num_iterations": 50}
    config = load_config(ROOT / "configs" / "qwen2.5-math-7b.yaml").model_copy(update=values)
    shape = model_shape(config.model)
    each = shape.weight_bytes / GIB
    assert f"{51 * each:,.1f} GiB for 51 of 51 models" in disk_line(config, shape)
    fewer = config.model_copy(update={"keep_models": 2})
    assert f"{3 * each:,.1f} GiB for 3 of 51 models" in disk_line(fewer, shape)
    most = 4 * each + 2 * 14 * shape.parameters / GIB
    assert f"at most {most:,.1f} GiB while training" in disk_line(fewer, shape)
    averaged = config.method.model_copy(update={"judge": "average"})
    line = disk_line(fewer.model_copy(update={"method": averaged}), shape)
    assert f", 3 means of them, at most {most + 3 * each:,.1f} GiB while training" in line


def test_the_doctor_wants_the_room_that_the_plan_names(tmp_path):
    large = load_config(ROOT / "configs" / "qwen2.5-math-72b.yaml", [f"runs_dir={tmp_path}"])
    needed = most_on_disk(large, model_shape(large.model)) + 0.25
    with pytest.raises(PsrError, match=rf"about {needed:.1f} GiB; set runs_dir to a larger disk"):
        check_disk(large)
    unknown = large.model_copy(
        update={"model": large.model.model_copy(update={"base": str(tmp_path)})}
    )
    assert "the model's size is not known" in check_disk(unknown)


def test_logits_are_planned_for_as_many_tokens_as_are_scored_at_once():
    assert SCORED_AT_ONCE == CHUNK
