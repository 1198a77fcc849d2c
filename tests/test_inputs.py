"""Models that cannot be used as the config asks: named before any work, with a way out."""

import json
import shutil

import pytest
from conftest import ROOT, TINY
from transformers import AddedToken

from psr_ray.config import Config, JudgeConfig, ModelConfig, PromptConfig
from psr_ray.config.file import load_config
from psr_ray.doctor import check_inputs
from psr_ray.errors import PsrError
from psr_ray.method.generation import Completion
from psr_ray.method.judges import judge_of
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.method.ranking import points_prompt
from psr_ray.method.steps import merge


def test_a_model_without_a_chat_template_is_named_with_the_setting_to_change():
    config = load_config(ROOT / "configs" / "smoke.yaml", ("prompts.chat_template=true",))
    with pytest.raises(PsrError, match=r"no chat template; set prompts\.chat_template to false"):
        check_inputs(config)


SYSTEM = """{% if messages[0].role == 'system' %}<s>{{ messages[0].content }}</s>
{% else %}<s>reason step by step, \\boxed{}</s>
{% endif %}{{ messages[-1].content }}"""
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


def prompts_of(template, arguments=None, **system):
    tokenizer = load_tokenizer(str(TINY))
    tokenizer.chat_template = template
    settings = PromptConfig(
        templates="compact", chat_template=True, system=system, chat_template_kwargs=arguments or {}
    )
    return PromptBuilder(tokenizer, settings)


def judge_prompt(prompts, mode="explain"):
    return judge_of(prompts, JudgeConfig(mode=mode)).prompt("1+1?", [], "2", "3")


def test_system_messages_are_set_by_purpose_or_left_to_the_template():
    judge, own = "You judge.", "reason step by step"
    prompts = prompts_of(SYSTEM, judge=judge)
    judged = [
        *(judge_prompt(prompts, mode) for mode in ("explain", "verdict")),
        points_prompt(prompts, "1+1?", ["2"]),
    ]
    for ids in judged:
        assert judge in prompts.decode(ids)
        assert own not in prompts.decode(ids)
    assert own in prompts.decode(prompts.solve_ids("1+1?"))
    assert own in prompts.decode(judge_prompt(prompts_of(SYSTEM)))
    assert "Solve." in prompts.decode(prompts_of(SYSTEM, solve="Solve.").solve_ids("1+1?"))


def test_a_template_without_a_system_role_and_a_base_model_are_named():
    with pytest.raises(PsrError, match=r"no system role\); leave out prompts\.system"):
        judge_prompt(prompts_of(STRICT, judge="x"))
    with pytest.raises(ValueError, match="`system` needs `chat_template: true`"):
        PromptConfig(chat_template=False, system={"solve": "x"})
    with pytest.raises(ValueError, match="`chat_template_kwargs` needs `chat_template: true`"):
        PromptConfig(chat_template=False, chat_template_kwargs={"brief": True})


def test_a_verdicts_letter_needs_a_token_of_its_own_behind_its_opening():
    prompts = prompts_of(SYSTEM)
    ids = {"[[": [1], "[[A": [2, 3], "[[B": [2, 4], "[[A]]": [2, 3, 5]}
    prompts.tokenizer = type("T", (), {
        "encode": lambda self, text, add_special_tokens: ids[text], "name_or_path": "merged",
    })()  # fmt: skip
    with pytest.raises(PsrError, match=r"merged: '\[\[A' is not '\[\[' and one token"):
        _ = judge_of(prompts, JudgeConfig(mode="verdict")).choice_ids
    ids |= {"[[A": [1, 3], "[[B": [1, 4]}
    assert judge_of(prompts, JudgeConfig(mode="verdict")).choice_ids == (3, 4)


def test_a_chat_template_gets_its_own_arguments():
    template = "{{ messages[-1].content }}{% if brief %}<brief>{% endif %}"
    plain, brief = (
        prompts_of(template, arguments=arguments) for arguments in ({}, {"brief": True})
    )
    assert plain.decode(plain.solve_ids("1+1?")) + "<brief>" == brief.decode(
        brief.solve_ids("1+1?")
    )
    with pytest.raises(ValueError, match="must not switch thinking: it is off, but for judgements"):
        PromptConfig(chat_template_kwargs={"enable_thinking": True})


# The ends of prompts by the templates of Qwen 3 (a switch, on by default) and of the models distilled
# from DeepSeek-R1 (thinking is always opened).
SWITCHED = (
    "{{ messages[-1].content }}\nassistant:\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
ALWAYS = "{{ messages[-1].content }}\nassistant:\n{{ '<think>\n' }}"


@pytest.mark.parametrize("template", [SWITCHED, ALWAYS])
def test_no_model_thinks_where_it_solves_and_a_judge_does_within_its_tokens(template):
    prompts = prompts_of(template)
    closed = "assistant:\n<think>\n\n</think>\n\n"
    assert prompts.decode(prompts.solve_ids("1+1?")).endswith(closed)
    assert prompts.decode(judge_prompt(prompts)).endswith(closed)
    verdict = judge_of(prompts, JudgeConfig(mode="verdict", max_thinking_tokens=50))
    assert prompts.decode(verdict.prompt("1+1?", [], "2", "3")).endswith(closed + "[[")
    judge = judge_of(prompts, JudgeConfig(verdicts="hard", max_tokens=20, max_thinking_tokens=50))
    assert not prompts.decode(judge.prompt("1+1?", [], "2", "3")).endswith(closed)
    assert judge.max_tokens == 70
    # a verdict within the thinking is none; the thinking is counted
    for text, wins, answer in (
        ("<think>\nFirst [[B]]\n</think>\n\nso [[A]]", 1.0, "\n\nso [[A]]"),
        ("<think>\nFirst [[B]]", None, ""),
        ("First it is left open\n</think>[[B]]", 0.0, "[[B]]"),
        ("so [[A]]", *((None, "") if template == ALWAYS else (1.0, "so [[A]]"))),
    ):
        ids = prompts.encode(text)
        read = judge.read(Completion(ids, "eos"))
        assert (read.first_wins, read.text) == (wins, prompts.decode(ids))
        assert read.num_thinking_tokens == len(ids) - len(prompts.encode(answer))


@pytest.mark.parametrize("special", [True, False])
def test_thinking_between_marks_that_are_special_tokens_is_thinking_too(special):
    prompts = prompts_of(SYSTEM)
    tokenizer = prompts.tokenizer
    marks = [AddedToken(mark, special=special) for mark in ("[THINK]", "[/THINK]")]
    tokenizer.add_tokens(marks, special_tokens=special)
    prompts = PromptBuilder(tokenizer, PromptConfig(templates="compact"))
    ids = prompts.encode("[THINK]so [[B]][/THINK]I say [[A]]")
    judge = judge_of(prompts, JudgeConfig(verdicts="hard", max_thinking_tokens=50))
    read = judge.read(Completion((*ids, tokenizer.eos_token_id), "eos"))
    assert (read.first_wins, read.text) == (1.0, "[THINK]so [[B]][/THINK]I say [[A]]")
    assert judge.read(Completion(ids[:5], "length")).first_wins is None
    assert merge([Completion(ids, "eos")], prompts.decode) == []  # no step


def test_thinking_of_a_judge_that_is_fine_tuned_is_refused():
    with pytest.raises(ValueError, match=r"`judge\.max_thinking_tokens` needs `sft: null`"):
        Config(name="x", model=ModelConfig(base="x"), judge=JudgeConfig(max_thinking_tokens=9))


def test_a_model_whose_tokenizer_cannot_end_a_solution_is_named(tmp_path):
    base = tmp_path / "model"
    shutil.copytree(TINY, base)
    settings = base / "tokenizer_config.json"
    values = json.loads(settings.read_text())
    del values["eos_token"]
    settings.write_text(json.dumps(values))
    config = load_config(ROOT / "configs" / "smoke.yaml", (f"model.base={base}",))
    with pytest.raises(PsrError, match="no EOS token; a solution cannot end"):
        check_inputs(config)
