"""What a training exports: a plain folder with the policy's weights, whatever the memory of a worker."""

import json
import threading
from copy import deepcopy
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
from psr_ray.training.deepspeed_internals import trained_part
from psr_ray.training.engine import check_merging
from psr_ray.training.export import merged, merged_weights, on_disk
from psr_ray.training.job import TrainingJob
from psr_ray.training.rounding import round_stochastically


def export_policy(worker, out, model, shard_bytes, *settings):
    """Export a policy; by how many bytes this worker's memory (without mapped files) rose meanwhile."""
    import deepspeed

    from psr_ray.training.engine import build_engine
    from psr_ray.training.export import export

    job = job_in(out, out, model, *settings)
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


def mixture():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    return MixtralForCausalLM(MixtralConfig(**sizes))


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def job_in(out, data, model, *settings):
    config = load_config(ROOT / "configs" / "smoke.yaml", settings)
    return TrainingJob(
        kind="dpo", config=config, model=str(model), stage="dpo", run_dir=out, out=out,
        data=Path(data), preferences=Path(data),
    )  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_those_of_the_state_dict_and_tied_ones_are_there_once(tmp_path, tied):
    model = llama(tmp_path / "model", tied=tied)
    job = job_in(tmp_path, tmp_path, TINY)
    found = dict(on_disk(merged_weights(model, job), tmp_path / "kept", 20_000))
    assert len(list((tmp_path / "kept").iterdir())) > 5
    expected = dict(model.state_dict())
    if tied:
        del expected["lm_head.weight"]
    assert_same(found, expected)


@pytest.mark.parametrize("way", ["whole", "sharded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_update_is_merged_as_peft_merges_it_and_rounded(tmp_path, dtype, way):
    model = llama(tmp_path / "model", tied=False).to(dtype)
    lora = adapted(model, "q_proj", "down_proj", "lm_head")
    for name, value in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    exact = deepcopy(lora).float().merge_and_unload().state_dict()
    job = job_in(tmp_path, tmp_path, TINY)
    if way == "whole":
        found = dict(merged(lora, job).state_dict())
    else:
        found = {name: value.clone() for name, value in merged_weights(lora, job)}
    assert found.keys() == exact.keys()
    spacing = 2**-7 if dtype == torch.bfloat16 else 1e-6
    for name, value in found.items():
        assert value.dtype == dtype
        assert torch.allclose(value.float(), exact[name], rtol=spacing, atol=spacing / 10), name


def test_a_lora_update_of_experts_is_merged_as_peft_merges_it(tmp_path):
    lora = get_peft_model(mixture(), LoraConfig(r=4, target_modules="all-linear"))
    for name, value in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    before = mixture().state_dict()
    exact = deepcopy(lora).merge_and_unload().state_dict()
    found = merged(lora, job_in(tmp_path, tmp_path, TINY)).state_dict()
    assert found.keys() == exact.keys()
    assert all(torch.allclose(found[name], exact[name], atol=1e-6) for name in exact)
    name = "model.layers.0.mlp.experts.down_proj"
    assert not torch.equal(found[name], before[name])


def test_a_lora_update_below_the_rounding_is_there_in_the_mean(tmp_path):
    model = llama(tmp_path / "model", tied=False).to(torch.bfloat16)
    before = {name: value.float() for name, value in model.state_dict().items()}
    lora = adapted(model, "q_proj", "down_proj")
    for name, value in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=1e-5)
    exact = deepcopy(lora).float().merge_and_unload().state_dict()
    nearest = deepcopy(lora).merge_and_unload().state_dict()
    found = merged(lora, job_in(tmp_path, tmp_path, TINY)).state_dict()
    names = {name for name in before if "q_proj" in name or "down_proj" in name}

    def share_of(state):
        return share_kept((before[name], exact[name], state[name]) for name in names)

    assert share_of(nearest) < 0.3
    assert share_of(found) == pytest.approx(1, abs=0.15)
    assert all(torch.equal(found[name].float(), before[name]) for name in before.keys() - names)


def share_kept(weights):
    """How much of an update is there, in the mean: of weights before it, exactly, and as found."""
    dots = squares = 0.0
    for before, exact, found in weights:
        update = exact.float() - before.float()
        dots += ((found.float() - before.float()) * update).sum().item()
        squares += update.square().sum().item()
    return dots / squares


def trained_policy(worker, out, model, data, *settings):
    """How much of an update in bfloat16 the exported model has, and would have by nearest rounding."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param
    from safetensors.torch import load_file

    from psr_ray.training.trainer import Trainer

    settings = ("model.dtype=bfloat16", "dpo.lr=1e-5", "dpo.batch_size=8", *settings)
    settings += ("dpo.num_epochs=1", "dpo.checkpoint_steps=1")
    trainer = Trainer(job_in(out, data, model, *settings))
    before = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict()
    trainer.run()
    exact, held = {}, {}
    for name, value in trainer.model.named_parameters():
        weight = safe_get_full_fp32_param(value)
        if weight is None:
            with trained_part(trainer.engine, value) as (_own, weight, _rank):
                pass
        exact[name] = weight.detach().clone()
        with deepspeed.zero.GatheredParameters([value], enabled=hasattr(value, "ds_tensor")):
            held[name] = value.detach().clone()
    kinds = {getattr(value, "ds_persist", None) for value in trainer.model.parameters()}
    assert kinds == ({False, True} if trainer.training.zero_stage == 3 else {None})
    if worker.rank == 0:
        assert_same(held, load_file(out / "model" / "model.safetensors"))
    worker.wait()
    Trainer(trainer.job).run()  # from its newest checkpoint, the last step again
    if worker.rank == 0:
        assert_same(held, load_file(out / "model" / "model.safetensors"))
    return [
        share_kept((before[name], exact[name], state[name]) for name in exact)
        for state in (held, {name: value.bfloat16() for name, value in exact.items()})
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "num"), [(0, 1), (0, 2), (2, 2), (3, 2)])
def test_an_update_below_the_rounding_is_in_the_exported_model(preferences, tmp_path, zero, num):
    # ZeRO-3 shares out weights above 100,000 numbers
    llama(tmp_path / "model", tied=True, vocab_size=550, hidden_size=384, intermediate_size=768)
    rest = (tmp_path / "model", preferences, f"dpo.zero_stage={zero}", f"dpo.num_workers={num}")
    [(kept, nearest), *_] = in_ranks(trained_policy, tmp_path / "out", num, *rest)
    assert nearest < 0.5
    assert kept == pytest.approx(1, abs=0.1)


def test_rounding_is_exact_in_the_mean_and_leaves_what_needs_none():
    values = torch.linspace(-3, 3, 100_001)
    rounded = [round_stochastically(values, torch.bfloat16, seed).float() for seed in range(64)]
    spacing = 2.0 ** (torch.floor(torch.log2(values.abs().clamp_min(1e-30))) - 7)
    assert all(((one - values).abs() <= spacing).all() for one in rounded)
    error = (torch.stack(rounded) - values).mean(0)
    assert (error.abs() <= 6 * spacing / 2 / 8).all()  # six standard errors of 64 draws
    assert (error / spacing).mean().abs() < 1e-3
    held = values.bfloat16()
    assert torch.equal(round_stochastically(held.float(), torch.bfloat16, 0), held)
    assert torch.equal(round_stochastically(values, torch.float32, 0), values)
    again = round_stochastically(values, torch.bfloat16, 1)
    assert torch.equal(again.float(), rounded[1])
    assert not torch.equal(rounded[0], rounded[1])


def adapted(model, *targets):
    return get_peft_model(model, LoraConfig(r=4, target_modules=list(targets)))


def test_a_lora_that_could_not_be_merged_is_refused_before_training(tmp_path):
    tied = adapted(llama(tmp_path / "tied", tied=True), "q_proj", "lm_head")
    for is_sharded in (True, False):
        with pytest.raises(PsrError, match="lm_head shares its weights with another layer"):
            check_merging(tied, is_sharded=is_sharded)
    lora = get_peft_model(mixture(), LoraConfig(r=4, target_modules="all-linear"))
    with pytest.raises(PsrError, match="experts cannot be merged with zero_stage 3"):
        check_merging(lora, is_sharded=True)
    check_merging(lora, is_sharded=False)
    check_merging(adapted(mixture(), "q_proj"), is_sharded=True)


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
