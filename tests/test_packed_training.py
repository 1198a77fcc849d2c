"""Losses and gradients of the packed DeepSpeed loop equal those of plain sequences, in every setting.

Two real gloo processes, no Ray: one pair of processes goes through all settings, for it is importing
that takes the time.
"""

import math
import os
import random
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import ROOT
from pairs import search_pairs
from test_trees import model, plain_logps
from transformers import AutoModelForCausalLM

from psr_ray.config.file import load_config

pytestmark = pytest.mark.slow

BETA, NLL = 0.5, 0.3
SETTINGS = [
    (zero, lora, checkpointing)
    for zero in (0, 1, 2, 3)
    for lora in (False, True)
    for checkpointing in (False, True)
]


def some_pairs():
    """Searches of several lengths, one of a single pair; a rejected step of one token."""
    rng = random.Random(5)
    pairs = [p for i, num in enumerate((4, 1, 3, 4, 2)) for p in search_pairs(num, rng, str(i))]
    one = pairs[2]
    return [*pairs, one.__class__("one", one.search, one.prompt_ids, one.chosen_ids, (7,))]


def job(folder, zero, lora, checkpointing):
    from psr_ray.training.job import TrainingJob

    config = load_config(
        ROOT / "configs" / "smoke.yaml",
        (
            f"model.base={folder}",
            "model.max_length=64",
            "search.max_step_tokens=32",
            "sft.tokens_per_pass=64",
            "dpo.tokens_per_pass=64",
            f"dpo.beta={BETA}",
            f"dpo.nll_weight={NLL}",
            f"dpo.zero_stage={zero}",
            f"dpo.lora={'{rank: 4}' if lora else 'null'}",
            f"dpo.gradient_checkpointing={checkpointing}",
        ),
    )
    return TrainingJob("dpo", config, str(folder), "dpo", folder, folder, folder)


def shake(causal):
    """Give the zero half of a LoRA update values, the same in every process."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in sorted(causal.named_parameters()):
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)


def expected(work, pairs, reference):
    """Loss and gradients by plain sequences: transformers, no packs, no DeepSpeed."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(work.config.seed)
    causal = AutoModelForCausalLM.from_pretrained(work.model)
    if work.training.lora is not None:
        settings = LoraConfig(
            r=4, lora_alpha=work.training.lora.alpha, target_modules="all-linear",
            task_type="CAUSAL_LM",
        )  # fmt: skip
        causal = get_peft_model(causal, settings)
        shake(causal)
    loss = torch.zeros(())
    for index, pair in enumerate(pairs):
        paths = [(pair.prompt_ids, pair.chosen_ids), (pair.prompt_ids, pair.rejected_ids)]
        chosen, rejected = (row.sum() for row in plain_logps(causal, paths))
        margin = BETA * ((chosen - reference[0, index]) - (rejected - reference[1, index]))
        loss = loss - torch.nn.functional.logsigmoid(margin) - NLL * chosen / len(pair.chosen_ids)
    loss = loss / len(pairs)
    loss.backward()
    gradients = {name: p.grad for name, p in causal.named_parameters() if p.requires_grad}
    return loss.item(), gradients


def packed(work, pairs, reference, worker):
    """Loss and gradients by the packed loop under DeepSpeed."""
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    from psr_ray.training.engine import build_engine
    from psr_ray.training.losses import dpo_term
    from psr_ray.training.trainer import run_microbatch, step_microbatches

    engine, causal = build_engine(work)
    if work.training.lora is not None:
        parameters = [p for n, p in causal.named_parameters() if "lora_B" in n]
        with deepspeed.zero.GatheredParameters(
            parameters, modifier_rank=0, enabled=work.training.zero_stage == 3
        ):
            shake(causal)
    term = dpo_term(pairs, [list(range(len(pairs)))], work.training, reference)
    passes = step_microbatches([term], 0, worker, work.training.tokens_per_pass)
    assert len(passes) > 1  # several trees a pass, several passes a step
    loss = 0.0
    for number, (term, part, size) in enumerate(passes, start=1):
        engine.set_gradient_accumulation_boundary(number == len(passes))
        value, _ = run_microbatch(engine, term, part, size, worker)
        loss += value.item()
        engine.backward(value * worker.num_workers, scale_wrt_gas=False)
    loss = worker.total({"loss": loss})["loss"]
    gradients = {
        name: safe_get_full_grad(p) if work.training.zero_stage else p.grad
        for name, p in causal.named_parameters()
        if p.requires_grad
    }
    gradients = {name: value.clone() for name, value in gradients.items() if value is not None}
    engine.destroy()
    return loss, gradients


def compare_all(rank, num_workers, port, folders):
    """In each process: every setting against plain sequences."""
    from psr_ray.training import logprobs
    from psr_ray.training.job import Worker

    os.environ |= {
        "DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_workers),
    }  # fmt: skip
    torch.set_num_threads(1)
    logprobs.PackScorer.__init__.__defaults__ = (7,)  # many chunks, another number on each worker
    dist.init_process_group("gloo", rank=rank, world_size=num_workers)
    worker = Worker(rank, num_workers, torch.device("cpu"))
    pairs = some_pairs()
    reference = -torch.arange(2.0 * len(pairs)).view(2, -1).cos() - 18
    for folder in folders:
        for setting in SETTINGS:
            work = job(folder, *setting)
            loss, gradients = expected(work, pairs, reference)
            found, packed_gradients = packed(work, pairs, reference, worker)
            assert math.isclose(loss, found, rel_tol=1e-4), (folder, setting, loss, found)
            assert gradients.keys() == packed_gradients.keys()
            for name, gradient in gradients.items():
                torch.testing.assert_close(
                    packed_gradients[name],
                    gradient,
                    rtol=1e-4,
                    atol=1e-4 * float(gradient.abs().max()),
                    msg=f"{folder} {setting} {name}",
                )
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small random models of two architectures."""
    made = []
    for kind in ("llama", "qwen2"):
        folder = tmp_path_factory.mktemp(kind)
        model(kind).save_pretrained(folder)
        made.append(folder)
    return made


@pytest.mark.parametrize("num_workers", [1, 2])
def test_losses_and_gradients_equal_those_of_plain_sequences(folders, num_workers):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(compare_all, (num_workers, port, folders), nprocs=num_workers)
