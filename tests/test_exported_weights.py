"""What a training exports: a plain folder with the policy's weights, whatever the memory of a worker."""

import json
import threading
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY
from peft import LoraConfig, get_peft_model
from ranks import in_ranks
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from psr_ray.config.file import load_config
from psr_ray.errors import PsrError
from psr_ray.method.prompts import load_tokenizer
from psr_ray.training.engine import check_merging
from psr_ray.training.export import lost_in_merging, merged_weights, on_disk
from psr_ray.training.job import TrainingJob


def export_policy(worker, out, model, shard_bytes, *settings):
    """Export a policy; by how many bytes this worker's memory (without mapped files) rose meanwhile."""
    import deepspeed

    from psr_ray.training.engine import build_engine
    from psr_ray.training.export import export

    config = load_config(ROOT / "configs" / "smoke.yaml", settings)
    job = TrainingJob(
        kind="dpo", config=config, model=model, stage="dpo", run_dir=out, out=out, data=out,
        preferences=out,
    )  # fmt: skip
    _engine, policy = build_engine(job)
    for name, value in policy.named_parameters():  # an update that changes something
        if "lora_B" in name:
            with deepspeed.zero.GatheredParameters([value], modifier_rank=0), torch.no_grad():
                if worker.rank == 0:
                    value.copy_(torch.linspace(-1, 1, value.numel()).view_as(value))
    worker.wait()
    before, most, done = anonymous_bytes(), [0], threading.Event()

    def watch():
        while not done.wait(0.002):
            most[0] = max(most[0], anonymous_bytes())

    watching = threading.Thread(target=watch)
    watching.start()
    export(policy, load_tokenizer(model), job, worker.rank, int(shard_bytes))
    done.set()
    watching.join()
    return most[0] - before


def anonymous_bytes():
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def llama(folder, *, tied, **changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 128}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes | changes, tie_word_embeddings=tied))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return model


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_those_of_the_state_dict_and_tied_ones_are_there_once(tmp_path, tied):
    model = llama(tmp_path / "model", tied=tied)
    found = dict(on_disk(merged_weights(model, is_sharded=False), tmp_path / "kept", 20_000))
    assert len(list((tmp_path / "kept").iterdir())) > 5
    expected = dict(model.state_dict())
    if tied:
        del expected["lm_head.weight"]
    assert_same(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_update_is_merged_as_peft_merges_it(tmp_path, dtype):
    model = llama(tmp_path / "model", tied=False).to(dtype)
    lora = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj", "lm_head"]))
    for name, value in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    found = {name: value.clone() for name, value in merged_weights(lora, is_sharded=False)}
    assert_same(found, dict(lora.merge_and_unload().state_dict()))


@pytest.mark.parametrize(
    ("dtype", "std", "least", "most"),
    [
        (torch.bfloat16, 1e-7, 0.95, 1.01),
        (torch.bfloat16, 1.0, 0.0, 0.1),
        (torch.float32, 1e-3, 0.0, 0.01),
    ],
)
def test_what_rounding_loses_of_a_lora_update_is_measured(tmp_path, dtype, std, least, most):
    model = llama(tmp_path / "model", tied=False).to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lora = adapted(model, "q_proj", "down_proj")
    assert lost_in_merging(lora, is_sharded=False) is None  # no update yet
    for name, value in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=std)
    lost = lost_in_merging(lora, is_sharded=False)
    assert least <= lost <= most
    merged = lora.merge_and_unload().state_dict()
    kept = [
        (before[name] == merged[name]).float().mean().item() for name in before if "q_proj" in name
    ]
    assert all((share > 0.9) == (lost > 0.9) for share in kept)


def adapted(model, *targets):
    return get_peft_model(model, LoraConfig(r=4, target_modules=list(targets)))


def test_a_lora_that_could_not_be_merged_is_refused_before_training(tmp_path):
    tied = adapted(llama(tmp_path / "tied", tied=True), "q_proj", "lm_head")
    for is_sharded in (True, False):
        with pytest.raises(PsrError, match="lm_head shares its weights with another layer"):
            check_merging(tied, is_sharded=is_sharded)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    mixture = MixtralForCausalLM(MixtralConfig(**sizes))
    lora = get_peft_model(mixture, LoraConfig(r=4, target_modules="all-linear"))
    with pytest.raises(PsrError, match="experts cannot be merged with zero_stage 3"):
        check_merging(lora, is_sharded=True)
    check_merging(lora, is_sharded=False)
    check_merging(adapted(MixtralForCausalLM(MixtralConfig(**sizes)), "q_proj"), is_sharded=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tied", [True, pytest.param(False, marks=[pytest.mark.faults, pytest.mark.long])]
)
def test_no_worker_ever_has_the_whole_model_in_memory(tmp_path, monkeypatch, tied):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # what is freed is given back
    large = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 8}
    model = llama(tmp_path / "model", tied=tied, **large)
    size = sum(value.nbytes for value in model.parameters())
    settings = ("dpo.zero_stage=3", "dpo.num_workers=4")
    peaks = in_ranks(export_policy, tmp_path / "out", 4, tmp_path / "model", 20_000_000, *settings)
    assert max(peaks) < size / 4, (peaks, size)
    folder = tmp_path / "out" / "model"
    names = {path.name for path in folder.iterdir()}
    assert len([name for name in names if name.endswith(".safetensors")]) > size / 25e6
    assert "gathered" not in names
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert_same(dict(again.state_dict()), dict(model.state_dict()))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_parameters"] == model.num_parameters()
    assert index["metadata"]["total_size"] == size


@pytest.mark.slow
def test_sharded_workers_export_a_lora_update_merged(tmp_path):
    llama(tmp_path / "model", tied=True)
    outs = []
    for number, zero in enumerate((3, 0)):
        out = tmp_path / str(number)
        num = 2 if zero else 1
        settings = (f"dpo.zero_stage={zero}", "dpo.lora={rank: 4}", f"dpo.num_workers={num}")
        in_ranks(export_policy, out, num, tmp_path / "model", 40_000, *settings)
        files = sorted((out / "model").glob("*.safetensors"))
        state = {}
        for path in files:
            with safe_open(path, "pt") as file:
                state |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        outs.append(state)
    assert_same(*outs)
    assert not torch.equal(
        outs[0]["model.layers.0.self_attn.q_proj.weight"],
        AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        .model.layers[0]
        .self_attn.q_proj.weight,
    )
