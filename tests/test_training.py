import math
import random

import pytest
import torch
from conftest import ROOT, TINY
from hypothesis import given
from hypothesis import strategies as st

from actors.training_group import run_here
from psr_ray.config import DPOConfig, JudgeConfig, PromptConfig, SFTConfig
from psr_ray.config.file import load_config
from psr_ray.data.rows import pair_row, problem_row
from psr_ray.embedded.seed import generate_problems, judged_pairs
from psr_ray.errors import PsrError
from psr_ray.method.judges import judge_of
from psr_ray.method.preferences import CHOSEN_STEPS_SCHEMA, PREFERENCE_SCHEMA
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.storage.shards import write_shard
from psr_ray.training.examples import (
    batches,
    eft_example,
    ift_example,
    mixed_batches,
    within_length,
)
from psr_ray.training.job import TrainingJob
from psr_ray.training.losses import PairLogps, step_dpo_loss
from psr_ray.training.microbatches import sft_trees
from psr_ray.training.rows import dpo_data
from psr_ray.training.trainer import Trainer, check_first_dpo_loss, learning_rate

TOKENIZER = load_tokenizer(str(TINY))
PROMPTS = PromptBuilder(
    TOKENIZER, PromptConfig(templates="compact", chat_template=False, step_stop="\n")
)


def dpo_job(config, folder):
    return TrainingJob("dpo", config, "", "dpo", folder, folder, folder, folder)


@given(st.integers(1, 200), st.integers(1, 8), st.integers(0, 5))
def test_an_epoch_sees_every_row_once(num_rows, size, seed):
    plan = batches(num_rows, 1, size, seed)
    seen = [i for batch in plan for i in batch]
    assert sorted(seen) == list(range(num_rows))
    sizes = {len(batch) for batch in plan}
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert len(plan) == math.ceil(num_rows / size)


def test_epochs_that_do_not_divide_skip_and_repeat_nothing():
    plan = batches(61, 1, 32, 0)
    assert [len(batch) for batch in plan] == [30, 31]
    half = [i for batch in batches(61, 1.5, 32, 0) for i in batch]
    assert (len(half), len(set(half[:61]))) == (92, 61)


def test_mixed_batches_hold_the_share_asked_for():
    plan = mixed_batches(100, 300, 0.25, 1, 16, seed=0)
    assert len(plan) == 300 // 12
    assert all(sum(i < 100 for i in batch) == 4 for batch in plan)
    eft = [i for batch in plan for i in batch if i >= 100]
    assert sorted(eft) == list(range(100, 400))


def test_smaller_mixed_batches_hold_the_share_asked_for_too():
    for num_eft, share in ((17, 0.5), (10, 0.5), (5, 0.25)):
        for batch in mixed_batches(100, num_eft, share, 1, 32, seed=0):
            ift = sum(i < 100 for i in batch)
            assert abs(ift - share * len(batch)) <= 1


def test_examples_close_with_eos_and_score_the_completion_only():
    [problem] = generate_problems("ift", 1, seed=0)
    ift = ift_example(problem_row("solve", problem), PROMPTS)
    assert ift.completion_ids[-1] == TOKENIZER.eos_token_id
    assert PROMPTS.decode(ift.completion_ids) == problem.solution
    [packed] = sft_trees([ift], [0], 10_000)
    assert packed.tree.paths() == [(list(ift.prompt_ids), list(ift.completion_ids))]


def test_judge_examples_teach_reasoning_or_the_verdict_alone():
    [pair] = judged_pairs("eft", 1, seed=0)
    row = pair_row(pair)
    explain = eft_example(row, PROMPTS, JudgeConfig(mode="explain"))
    verdict = eft_example(row, PROMPTS, JudgeConfig(mode="verdict"))
    assert PROMPTS.decode(explain.completion_ids) == pair.judgement
    assert PROMPTS.decode(verdict.completion_ids) == f"{pair.verdict}]]"
    assert verdict.completion_ids[0] in judge_of(PROMPTS, JudgeConfig(mode="verdict")).choice_ids
    assert PROMPTS.decode(verdict.prompt_ids).endswith("Judge: [[")


def test_rows_that_do_not_fit_are_counted_and_never_cut():
    rows = [problem_row("solve", p) for p in generate_problems("ift", 20, seed=0)]
    examples = [ift_example(row, PROMPTS) for row in rows]
    lengths = sorted(map(len, examples))
    fitting, dropped = within_length(examples, lengths[9])
    assert set(dropped) == {e.id for e in examples if len(e) > lengths[9]}
    assert all(example in examples for example in fitting)


def test_pairs_that_do_not_fit_are_left_out_and_named(tmp_path):
    config = load_config(
        ROOT / "configs" / "smoke.yaml",
        ("model.max_length=40", "search.max_step_tokens=8", "sft.tokens_per_pass=40",
         "dpo.tokens_per_pass=40", "dpo.batch_size=2"),
    )  # fmt: skip
    empty = dict.fromkeys(PREFERENCE_SCHEMA.names)
    sizes = {"fits": (20, 5), "too long": (36, 5), "too wide a tree": (10, 18)}
    rows = [
        empty
        | {
            "id": name,
            "problem_id": name,
            "prompt_ids": [1] * prompt,
            "chosen_ids": [2] * step,
            "rejected_ids": [3] * step,
        }
        for name, (prompt, step) in sizes.items()
    ]
    write_shard(tmp_path / "pairs", rows, PREFERENCE_SCHEMA)
    work = dpo_data(dpo_job(config, tmp_path), PROMPTS)
    assert [pair.id for pair in work.pairs] == ["fits", "too wide a tree"]  # one pass of its own
    assert work.dropped == ["too long"]


def test_batches_do_not_depend_on_which_search_ended_first(tmp_path):
    config = load_config(ROOT / "configs" / "smoke.yaml", ("dpo.solutions_per_batch=3",))
    pairs, solutions = [], []
    for search in range(12):
        solutions.append({"id": f"{search}", "prompt_ids": [1], "completion_ids": [search]})
        for step in range(1, 4):
            pairs.append(
                dict.fromkeys(PREFERENCE_SCHEMA.names)
                | {
                    "id": f"{search}#{step}", "problem_id": f"{search}", "step_number": step,
                    "prompt_ids": [1] * step, "chosen_ids": [search], "rejected_ids": [step],
                }
            )  # fmt: skip
    found = []
    for number in range(2):
        folder = tmp_path / str(number)
        order = random.Random(number)
        order.shuffle(pairs), order.shuffle(solutions)
        for start in range(0, 36, 5 + number):
            write_shard(folder / "pairs", pairs[start : start + 5 + number], PREFERENCE_SCHEMA)
        write_shard(folder / "solutions", solutions, CHOSEN_STEPS_SCHEMA)
        work = dpo_data(dpo_job(config, folder), PROMPTS)
        batches = [[work.pairs[i] for i in batch] for batch in work.pair_plan]
        found.append((batches, [[work.examples[i] for i in batch] for batch in work.plan]))
    assert found[0] == found[1]


def loss(chosen, rejected, reference=(-5.0, -5.0), tokens=(4, 8), **settings):
    logps = pair_logps(chosen, rejected, reference, tokens)
    return step_dpo_loss(logps, DPOConfig(beta=0.5, **settings)).item()


def pair_logps(chosen, rejected, reference=(-5.0, -5.0), tokens=(4, 8)):
    return PairLogps(*(torch.tensor([v]) for v in (chosen, rejected, *reference, *tokens)))


def test_dpo_loss_is_ln2_at_the_reference_and_follows_the_formula():
    assert loss(-5.0, -5.0) == pytest.approx(math.log(2))
    margin = 0.5 * ((-3.0 + 5.0) - (-9.0 + 5.0))
    assert loss(-3.0, -9.0) == pytest.approx(math.log1p(math.exp(-margin)))
    assert pair_logps(-3.0, -9.0).nll_B.item() == pytest.approx(3.0 / 4)


def test_label_smoothing_and_length_normalization():
    margin = 0.5 * (2.0 / 4 - -4.0 / 8)
    settings = DPOConfig(beta=0.5, length_normalization=True)
    assert pair_logps(-3.0, -9.0).margin_B(settings).item() == pytest.approx(margin)
    plain = math.log1p(math.exp(-3.0))
    smooth = 0.9 * plain + 0.1 * (plain + 3.0)
    assert loss(-3.0, -9.0, label_smoothing=0.1) == pytest.approx(smooth)


def test_a_first_loss_other_than_ln2_stops_with_an_explanation():
    check_first_dpo_loss({"dpo_loss": math.log(2) + 5e-5})
    with pytest.raises(PsrError, match="not ln 2"):
        check_first_dpo_loss({"dpo_loss": 0.7})


def test_learning_rate_rises_then_falls_to_its_floor():
    settings = SFTConfig(lr=1.0, warmup_ratio=0.1, min_lr_ratio=0.1)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[:11] == sorted(rates[:11])
    assert max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    constant = DPOConfig(lr=1.0, schedule="constant", warmup_ratio=0.0)
    assert {learning_rate(constant, s, 10) for s in range(10)} == {1.0}


def test_the_learning_rate_of_many_rounds_is_one_curve_where_it_spans_the_run():
    settings = DPOConfig(lr=1.0, warmup_ratio=0.1, schedule_over="run")
    rounds = [(number, 10) for number in range(1, 11)]
    rates = [learning_rate(settings, step, 10, each) for each in rounds for step in range(10)]
    alone = DPOConfig(lr=1.0, warmup_ratio=0.1)
    assert rates == [learning_rate(alone, step, 100) for step in range(100)]
    assert rates[-1] < 0.01 < learning_rate(alone, 5, 10, (10, 10))


def test_no_pairs_is_one_line_that_says_where(tmp_path):
    config = load_config(ROOT / "configs" / "smoke.yaml")
    job = TrainingJob("dpo", config, "", "step-DPO → M2", tmp_path, tmp_path, tmp_path, tmp_path)
    with pytest.raises(PsrError, match=f"step-DPO → M2: no step preferences in {tmp_path}"):
        dpo_data(job, PROMPTS)


def test_too_little_gpu_memory_is_said_in_one_line(tmp_path, monkeypatch):
    def run(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more")

    monkeypatch.setattr(Trainer, "__init__", lambda *_: None)
    monkeypatch.setattr(Trainer, "run", run)
    with pytest.raises(
        PsrError, match=r"too little GPU memory \(CUDA out .*lower tokens_per_pass"
    ) as raised:
        run_here(dpo_job(load_config(ROOT / "configs" / "smoke.yaml"), tmp_path))
    assert "\n" not in str(raised.value)
