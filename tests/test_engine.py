"""The real vLLM engine in a process of its own (its settings are read at import)."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.slow

SCRIPT = """
import json
import shutil
import sys
import threading
import time
from psr_ray.method.judge import probability
from psr_ray.method.judges import judge_of
from psr_ray.config import JudgeConfig
from psr_ray.config.file import load_config
from psr_ray.inference.engine import VllmEngine
from psr_ray.inference.weights import Proof
from psr_ray.method.generation import GenerationRequest
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.storage.locations import local_copy

config = load_config("configs/smoke.yaml", ("engine.max_rows_in_flight=5",))
model = local_copy(config.model.base)
tokenizer = load_tokenizer(model)
prompts = PromptBuilder(tokenizer, config.prompts)
engine = VllmEngine(model, config.model, config.engine, 0, sys.argv[1])


def ask(text, **settings):
    values = dict(num_samples=1, temperature=0.0, top_p=1.0, max_tokens=24) | settings
    [[*found]] = yield [GenerationRequest(prompt_ids=tuple(tokenizer.encode(text)), **values)]
    return found


def chain(rounds):
    text = "37+45:"
    for _ in range(rounds):
        [found] = yield from ask(text, stop="\\n")
        text += prompts.decode(found.token_ids)
    return text


def broken():
    yield from ask("1+1=")
    raise KeyError("mine")


def leaves():
    yield from ask("1+1=")
    raise SystemExit("mine")


def slow(found):
    yield from ask("1+1=")
    before = engine.busy_s
    time.sleep(1.5)
    found.append(engine.busy_s - before)


out = {}
greedy, samples = engine.run([ask("37+45:"), ask("5", num_samples=5, temperature=1.0)])
out["greedy"] = prompts.decode(greedy[0].token_ids)
out["num_samples"] = len(samples)
[[first], [policy]] = engine.run([ask("37+45:", role="judge"), ask("37+45:")])
out["first"] = [prompts.decode(c.token_ids) for c in (first, policy)]
[stopped] = engine.run([ask("37+45:", stop="\\n", max_tokens=64)])
out["stop"] = [stopped[0].finish, prompts.decode(stopped[0].token_ids)[-1]]
choices = judge_of(prompts, JudgeConfig(mode="verdict")).choice_ids
[verdict] = engine.run([ask("Judge: [[", choice_ids=choices, max_tokens=1)])
out["probability"] = probability(verdict[0].choice_logprobs)
# after reasoning: the choice is read where the last of the letters stands, as if asked for there
digits = tuple(tokenizer.encode("82"))
[[reasoned]] = engine.run([ask("37+45:", choice_ids=digits)])
before = prompts.decode(reasoned.token_ids[: reasoned.choice_place])
[[alone]] = engine.run([ask("37+45:" + before, choice_ids=digits, max_tokens=1)])
out["reasoned"] = [before, reasoned.choice_logprobs, alone.choice_logprobs]
out["chains"] = len(engine.run([chain(k % 4 + 1) for k in range(40)]))
failed = engine.submit(broken())
out["task_error"] = type(failed.exception()).__name__
out["task_ends"] = repr(engine.submit(leaves()).exception())
beside = []
engine.run([slow(beside), ask("Judge:", num_samples=32, max_tokens=400, temperature=2.0)])
out["steps_beside_a_slow_task_s"] = beside[0]
too_long = engine.submit(ask("1 " * 600))
out["refused"] = type(too_long.exception()).__name__
num_open = most_open = 0


def counted():
    global num_open, most_open
    num_open += 1
    most_open = max(most_open, num_open)
    yield from ask("37+45:")
    num_open -= 1


engine.run([counted() for _ in range(12)])
late = ask("Judge:", max_tokens=400, temperature=1.0, max_seconds=0.05)
[[late], [whole]] = engine.run([late, ask("37+45:", max_seconds=60)])
out["late"] = [late.finish, 0 < len(late.token_ids) < 400]
out["in_time"] = prompts.decode(whole.token_ids) == out["greedy"]
out["most_open"] = most_open
[after] = engine.run([ask("37+45:")])
out["still_alive"] = prompts.decode(after[0].token_ids) == out["greedy"]


def seeded(most):
    values = (f"engine.max_rows_in_flight={most}", "engine.seeded_sampling=true")
    settings = load_config("configs/smoke.yaml", values)
    engine = VllmEngine(model, settings.model, settings.engine, 0)

    def twice(k):
        first = yield from ask(f"{k} " * (30 + 4 * k) + ":", num_samples=6, temperature=1.0)
        text = f"{k}" + prompts.decode(first[0].token_ids)
        second = yield from ask(text, num_samples=6, temperature=1.0)
        return [completion.token_ids for completion in first + second]

    samples = engine.run([twice(k) for k in range(30)])
    engine.close()
    out["after_closing"] = str(engine.submit(twice(0)).exception(10))
    return samples



def with_another_end(text):
    # M0 whose generation_config has a second token that ends
    folder = sys.argv[1] + "-ends"
    shutil.copytree(model, folder)
    ends = [tokenizer.eos_token_id, *tokenizer.encode(text)]
    with open(folder + "/generation_config.json", "w") as file:
        json.dump({"eos_token_id": ends}, file)
    engine = VllmEngine(folder, config.model, config.engine, 0)
    [[found], [step]] = engine.run([ask("37+45:"), ask("37+45:", stop="\\n")])
    engine.close()
    return [prompts.decode(found.token_ids), found.finish, step.finish]


def log_odds(dtype):
    # of the two verdicts, after 30 prompts
    settings = config.model.model_copy(update={"dtype": dtype})
    engine = VllmEngine(model, settings, config.engine, 0)
    letters = dict(choice_ids=choices, max_tokens=1)
    found = engine.run([ask(f"{k}+{3 * k}: Judge: [[", **letters) for k in range(30)])
    engine.close()
    return [a - b for a, b in (one.choice_logprobs for [one] in found)]


def crash(output):
    raise MemoryError("planted")


def recorded(step):
    def recording():
        threads.add(threading.get_ident())
        return step()

    return recording


threads, policy = set(), engine._engines["policy"]
policy.step = recorded(policy.step)
engine.run([ask("1+1=")])
engine.models.answers(Proof([tokenizer.encode("1+1=")], [tokenizer.encode("2")], [0.0]))
out["num_threads"] = len(threads)
in_thread = engine.models.in_thread
try:
    in_thread(lambda: {}["none"])
except KeyError:
    out["call_error"] = in_thread(lambda: "goes on")
engine._finish = crash
out["alive_before"] = engine.is_alive
out["death"] = [str(engine.submit(ask("1+1=")).exception(60)) for _ in range(2)]
out["alive_after"] = engine.is_alive
try:
    in_thread(dict)
except RuntimeError as error:
    out["call_to_the_dead"] = str(error)
# 30 searches, two rounds of six samples each, all at once or four at a time
out["seeded"] = seeded(512) == seeded(4)
out["log_odds"] = [log_odds("bfloat16"), log_odds("float32")]
out["another_end"] = with_another_end(",")
print("RESULT" + json.dumps(out))
"""


@pytest.fixture
def other_model(tmp_path):
    """M0 with other weights."""
    model = AutoModelForCausalLM.from_pretrained(TINY)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(TINY).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_the_engine_samples_stops_scores_choices_and_survives_bad_tasks(other_model):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(other_model)], capture_output=True, text=True, cwd=ROOT,
        check=False, timeout=300,
    )  # fmt: skip
    assert "RESULT" in done.stdout, done.stderr[-3000:]
    out = json.loads(done.stdout.rsplit("RESULT", 1)[1])
    assert out["greedy"].startswith(" 7+5=12, 3+4+1=8, so 82")
    assert out["num_samples"] == 5
    assert out["first"][0] != out["first"][1] == out["greedy"]  # two models side by side
    assert out["stop"] == ["stop", "\n"]
    wins, mass = out["probability"]
    assert 0 < wins < 1
    assert 0 < mass <= 1
    before, reasoned, alone = out["reasoned"]
    assert (" 7+5=12, 3+4+1=8, so 82").startswith(before)
    assert len(before) > 5
    assert reasoned == pytest.approx(alone, abs=1e-3)
    assert out["chains"] == 40
    assert out["most_open"] == 5  # the others wait until these end
    assert out["task_error"] == "KeyError"
    assert out["task_ends"] == "RuntimeError('SystemExit: mine')"
    assert out["steps_beside_a_slow_task_s"] > 0.1
    assert out["refused"] in ("ValueError", "VLLMValidationError")
    assert out["late"] == ["time", True]
    assert out["in_time"]
    assert out["still_alive"]
    assert out["seeded"]  # at full load, too
    assert out["after_closing"] == "the engine is closed"
    # in bfloat16 only what is before the head is rounded: no two prompts have the same odds
    rounded, exact = out["log_odds"]
    assert len(set(rounded)) == 30
    assert rounded == pytest.approx(exact, abs=0.2)
    assert rounded != exact
    on_grid = [abs(64 * x - round(64 * x)) < 1e-3 for x in rounded]
    assert sum(on_grid) < 5, rounded
    # such a token ends a solution, as EOS does, and is no stop text
    assert out["another_end"] == [" 7+5=12,", "eos", "eos"]
    assert out["num_threads"] == 1  # a second one that computes would slow the first one down
    assert out["call_error"] == "goes on"
    assert [out["alive_before"], out["alive_after"]] == [True, False]
    assert out["call_to_the_dead"] == out["death"][0]
    assert out["death"] == ["the vLLM engine died: MemoryError: planted"] * 2
