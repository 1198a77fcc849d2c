"""`psr-ray init`: a config that fits the model and the machine, from small files alone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from hub_datasets import HubDatasets

from benchmarks.heads import Head
from psr_ray.cli.init import config_text
from psr_ray.config import Config
from psr_ray.config.file import load_config
from psr_ray.data.sources import on_hub
from psr_ray.errors import PsrError
from psr_ray.planning.choose import chosen_settings, default_recipe
from psr_ray.planning.facts import model_facts
from psr_ray.planning.machine import Machine, machine_of
from psr_ray.planning.memory import check_fits
from psr_ray.planning.model import model_shape

PSR = Path(sys.executable).with_name("psr-ray")
# From the published config.json of Qwen2.5-7B-Instruct.
SEVEN = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
    "max_position_embeddings": 32768,
}  # fmt: skip
TINY = SEVEN | {
    "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
# From the published tokenizer_config.json and generation_config.json of models of both kinds, as far as
# it matters: Qwen2.5-Math's, Gemma 3's and Mistral's.
TURNS = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
CHAT = {"chat_template": TURNS, "eos_token": "<|im_end|>"}
BASE = {"chat_template": TURNS, "eos_token": "<|endoftext|>"}
GEMMA = {
    "chat_template": "<start_of_turn>{{ m }}<end_of_turn>", "eos_token": {"content": "<eos>"},
    "added_tokens_decoder": {"106": {"content": "<end_of_turn>"}, "1": {"content": "<eos>"}},
}  # fmt: skip
MISTRAL = {"chat_template": "[INST] {{ m }} [/INST]{{ eos_token }}", "eos_token": "</s>"}


def model(folder, config, tokenizer=CHAT):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return str(folder)


def chosen(base, machine, recipe, problems="gsm8k"):
    return chosen_settings("mine", model_facts(base), machine, recipe, problems, ["math500"])


@pytest.mark.parametrize("recipe", ["paper", "instruct", "lora"])
@pytest.mark.parametrize(
    ("num", "gib"), [(1, 80), (1, 141), (2, 80), (8, 80), (8, 40)], ids=lambda value: str(value)
)
def test_what_is_chosen_for_gpus_is_short_and_fits_by_the_plans_own_figures(
    tmp_path, recipe, num, gib
):
    base = model(tmp_path / "seven", SEVEN)
    text = config_text(chosen(base, Machine(num, gib, 16, 128), recipe))
    assert len(text.splitlines()) < 50
    assert 'step_stop: "\\nStep {n}:"}' in text
    config = Config.model_validate(yaml.safe_load(text))
    check_fits(config, model_shape(config.model), gib)
    assert config.engine.num_engines[1] * config.engine.tensor_parallel_size == num
    assert (config.sft is None) is (recipe != "paper")
    assert config.prompts.step_stop == "\nStep {n}:"
    assert config.data.benchmarks == ("math500",)
    if recipe == "lora":
        assert config.dpo.lora is not None


def test_a_small_gpu_gets_an_update_of_low_rank_where_all_weights_do_not_fit(tmp_path):
    base = model(tmp_path / "seven", SEVEN)
    config = Config.model_validate(chosen(base, Machine(1, 48, 8, 64), "instruct"))
    assert config.dpo.lora is not None or config.dpo.offload_optimizer


@pytest.mark.parametrize(
    ("tokenizer", "eos", "recipe", "says"),
    [
        (CHAT, None, "instruct", "follows instructions"),
        (GEMMA, [1, 106], "instruct", "follows instructions"),
        (GEMMA, 1, "paper", "no token that ends its texts"),
        (MISTRAL, None, "instruct", "follows instructions"),
        (BASE, 0, "paper", r"a base model \(its chat template has no token that ends its texts"),
        ({}, None, "paper", r"a base model \(it has no chat template"),
    ],
)
def test_a_base_model_is_told_from_one_that_follows_instructions(
    tmp_path, tokenizer, eos, recipe, says
):
    base = model(tmp_path / "m", SEVEN, tokenizer)
    if eos is not None:
        (tmp_path / "m" / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    facts = model_facts(base)
    found, why = default_recipe(facts, Machine(1, 80, 8, 64))
    assert found == recipe
    assert re.search(says, why)
    found, why = default_recipe(facts, Machine(0, 0, 8, 64))
    assert found == "cpu"
    assert ("looks like a base model" in why) == (recipe == "paper")


def test_a_name_says_base_as_a_word_alone(tmp_path):
    gpu = Machine(1, 80, 8, 64)
    found, why = default_recipe(model_facts(model(tmp_path / "m-7b-base", SEVEN, CHAT)), gpu)
    assert (found, "its name says so" in why) == ("paper", True)
    named = model(tmp_path / "codebase-instruct", SEVEN, CHAT)
    assert default_recipe(model_facts(named), gpu)[0] == "instruct"


def test_tokens_that_end_texts_are_found_in_a_tokenizer_of_transformers_5(tmp_path):
    new = {name: value for name, value in GEMMA.items() if name != "added_tokens_decoder"}
    base = model(tmp_path / "m", SEVEN, new)
    (tmp_path / "m" / "generation_config.json").write_text('{"eos_token_id": [1, 106]}')
    assert model_facts(base).why_base is not None
    tokens = {"added_tokens": [{"id": 106, "content": "<end_of_turn>"}]}
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(tokens))
    assert model_facts(base).why_base is None


def test_what_does_not_go_together_is_named(tmp_path):
    base, plain = model(tmp_path / "seven", SEVEN), model(tmp_path / "plain", TINY, {})
    gpu, cores = Machine(1, 80, 8, 64), Machine(0, 0, 2, 24)
    with pytest.raises(
        PsrError, match="no chat template, so it is a base model; take --recipe paper"
    ):
        chosen(plain, gpu, "instruct")
    with pytest.raises(PsrError, match="no GPU here; take --recipe cpu"):
        chosen(base, cores, "instruct")
    with pytest.raises(
        PsrError, match=r"training its 7\.6B weights takes 142 GiB, this machine has 24"
    ):
        chosen(base, cores, "cpu")
    with pytest.raises(PsrError, match="too large for this machine: an engine's GPU of 8 GiB"):
        chosen(base, Machine(1, 8, 8, 64), "lora")
    with pytest.raises(
        PsrError, match="neither a file nor a Hub id nor one of gsm8k, math, numinamath"
    ):
        on_hub("gsm9k")
    for name in ("data/typo.jsonl", "me/*", "/no/such", "data/typo.csv.gz", "data/p.txt"):
        with pytest.raises(PsrError, match=f"{re.escape(name)}: no such file; correct it"):
            on_hub(name)
    assert on_hub("me/set")
    assert on_hub("AI-MO/NuminaMath-1.5")
    assert on_hub("gsm8k")
    (tmp_path / "none").mkdir()
    with pytest.raises(
        PsrError, match=r"none: no config\.json; give a Hugging Face folder or a Hub id"
    ):
        model_facts(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("recipe", "machine"),
    [("cpu", Machine(0, 0, 2, 24)), ("instruct", Machine(1, 80, 8, 64))],
    ids=["cpu", "gpu"],
)
@pytest.mark.parametrize("context", [256, 512, 2048])
def test_a_short_context_gets_short_steps_and_solutions(tmp_path, recipe, machine, context):
    base = model(tmp_path / "short", TINY | {"max_position_embeddings": context})
    config = Config.model_validate(chosen(base, machine, recipe))
    assert config.model.max_length == min(context, 1536 if recipe == "cpu" else 4096)
    assert config.search.max_step_tokens <= context // 4 or context == 2048
    assert config.evaluation.max_tokens <= context // 2


def test_the_cpu_recipe_uses_no_gpu(tmp_path):
    config = Config.model_validate(
        chosen(model(tmp_path / "m", TINY), Machine(8, 80, 8, 64), "cpu")
    )
    assert (config.engine.tensor_parallel_size, config.dpo.use_gpu) == (0, False)


def test_a_cluster_is_its_largest_node_and_an_unknown_gpu_is_named():
    head, worker = {"CPU": 4.0, "memory": 8e9}, {"CPU": 96.0, "GPU": 8.0, "memory": 1e12}
    found = machine_of([head, worker | {"accelerator_type:A100-80G": 1.0}])
    assert (found.num_gpus, found.gpu_gib, found.cores) == (8, 80, 96)
    assert machine_of([head]).num_gpus == 0
    with pytest.raises(PsrError, match=r"8 GPUs of kind t4; .* --gpus 8 --gpu a100-40\|a100"):
        machine_of([head, worker | {"accelerator_type:T4": 1.0}])


@pytest.mark.slow
def test_init_looks_at_the_cluster_at_ray_address(tmp_path):
    has = json.dumps({"GPU": 8, "accelerator_type:H100": 1})
    head = Head(tmp_path / "head.log", RAY_OVERRIDE_RESOURCES=has)
    try:
        base = model(tmp_path / "seven", SEVEN)
        variables = head.environment | {"RAY_ADDRESS": head.address}
        done = init(tmp_path, "--model", base, **variables)
        assert (tmp_path / "mine.yaml").is_file(), done.stdout + done.stderr
        assert load_config(tmp_path / "mine.yaml").engine.num_engines[1] == 8
        refused = init(
            tmp_path, "--model", base, name="no", **variables | {"RAY_ADDRESS": "127.0.0.1:9"}
        )
        assert "no cluster could be joined" in refused.stderr
    finally:
        head.end()


@pytest.mark.parametrize(("num", "rounds", "held"), [(1000, [40], 20), (30, [20], 10), (2, [1], 1)])
def test_of_a_small_file_a_third_is_held_out(tmp_path, num, rounds, held):
    base, path = model(tmp_path / "tiny", TINY), tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"problem": f"{i}+1?"}) + "\n" for i in range(num)))
    settings = chosen(base, Machine(0, 0, 2, 24), "cpu", str(path))
    data = Config.model_validate(settings).data
    assert [source.num for source in data.train] == rounds
    assert data.heldout.num == held
    path.write_text('{"problem": "1+1?"}')
    with pytest.raises(PsrError, match="1 problem; a run needs two at least"):
        chosen(base, Machine(0, 0, 2, 24), "cpu", str(path))


def init(folder, *arguments, name="mine", **variables):
    return subprocess.run(
        [str(PSR), "init", name, *arguments], capture_output=True, text=True, check=False,
        cwd=folder, env=os.environ | variables, timeout=120,
    )  # fmt: skip


def test_bad_names_and_broken_files_are_one_line(tmp_path):
    refused = init(tmp_path, "--model", "x", name="a/b")
    assert "'a/b': a run's name has letters, digits" in refused.stderr
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    refused = init(tmp_path, "--model", "broken")
    assert refused.returncode == 2
    assert "broken/config.json" in refused.stderr.replace("\n", "")
    assert "Traceback" not in refused.stderr


def test_of_a_model_on_the_hub_the_small_files_alone_are_read(tmp_path):
    files = {
        "config.json": json.dumps(SEVEN).encode(),
        "tokenizer_config.json": json.dumps(CHAT).encode(),
    }
    hub = HubDatasets({"me/seven": files, "me/closed": files}, gated={"me/closed"})
    where = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    try:
        done = init(tmp_path, "--model", "me/seven", "--gpus", "8", "--gpu", "h100", **where)
        assert (tmp_path / "mine.yaml").is_file(), done.stdout + done.stderr
        config = load_config(tmp_path / "mine.yaml")
        assert (config.model.base, config.sft) == ("me/seven", None)
        assert "psr-ray run --config mine.yaml" in done.stdout
        assert "recipe instruct: it looks like a model that follows instructions" in done.stdout
        assert "✗ model: model me/seven: no tokenizer could be loaded" in done.stdout
        asked = {path.rpartition("/")[2] for path in hub.requests if "/resolve/" in path}
        assert {"config.json", "tokenizer_config.json"} <= asked
        assert not [name for name in asked if "safetensors" in name]
        again = init(tmp_path, "--model", "me/seven", "--gpus", "8", "--gpu", "h100", **where)
        assert again.returncode == 2
        assert "mine.yaml is there already; give another name" in again.stderr
        (tmp_path / "mine.yaml").unlink()
        for name in ("me/closed", "me/nothing"):
            refused = init(tmp_path, "--model", name, "--gpus", "8", "--gpu", "h100", **where)
            assert refused.returncode == 2
            assert re.search(f"model {name}: neither a folder nor on the Hub", refused.stderr)
        planned = subprocess.run(
            [str(PSR), "plan", "--config", str(ROOT / "configs" / "instruct.yaml"), "--gpu", "h100",
             "--set", "model.base=me/seven"],
            capture_output=True, text=True, check=False, env=os.environ | where, timeout=120,
        )  # fmt: skip
        assert "7,615.3M" in planned.stdout, planned.stdout + planned.stderr
    finally:
        hub.end()
