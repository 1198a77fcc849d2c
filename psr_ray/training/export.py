"""The export of a trained model as a plain Hugging Face folder, which engines and others load."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from psr_ray.runs import MODEL_FOLDER
from psr_ray.storage.locations import folder_to_write, is_remote, remove
from psr_ray.training.engine import load_model
from psr_ray.training.job import TrainingJob
from psr_ray.training.rounding import round_stochastically, seed_of

# Bytes of a file of weights; with ZeRO-3 rank 0 has about twice as much in its memory at once.
SHARD_BYTES = 5 * 10**9
# The step after which a LoRA's update is merged, for the seed of its rounding.
MERGE = -1


def export(
    model: Any, tokenizer: Any, job: TrainingJob, rank: int, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the model's folder; a LoRA update is merged into the weights first.

    With ZeRO-3 all workers gather one parameter at a time and rank 0 keeps it on the disk, so that the
    model never has to fit into a GPU; the folder is written (and uploaded) after that, when no worker
    waits for another.
    """
    is_sharded, lora = job.training.zero_stage == 3, job.training.lora
    if rank != 0:
        if is_sharded:
            for _ in merged_weights(model, job):
                pass
        return
    if lora is not None and lora.four_bit:
        update = model
        model = get_peft_model(load_model(job), update.peft_config["default"])
        set_peft_model_state_dict(model, get_peft_model_state_dict(update))
    if lora is not None and not is_sharded:
        model = merged(model, job)
    final = job.out / MODEL_FOLDER
    remove(final)  # left by a run that died before its manifest
    unfinished = final if is_remote(final) else job.out / f".{MODEL_FOLDER}"
    remove(unfinished)
    with folder_to_write(unfinished) as folder:
        weights = merged_weights(model, job)
        if is_sharded:
            weights = on_disk(weights, folder / "gathered", shard_bytes)
        state = {name: value.cpu() for name, value in weights}
        plain = model.get_base_model() if lora is not None and is_sharded else model
        num_parameters = sum(value.numel() for value in state.values())
        plain.save_pretrained(folder, state_dict=state, max_shard_size=shard_bytes)
        tokenizer.save_pretrained(folder)
        del state
        count_parameters(folder / SAFE_WEIGHTS_INDEX_NAME, num_parameters)
        remove(folder / "gathered")
    if not is_remote(final):
        os.sync()
        os.replace(unfinished, final)


def count_parameters(index: Path, num_parameters: int) -> None:
    """Correct the number of parameters in an index of weights, where there is one: transformers counts
    a LoRA's, and none of those that are on other workers."""
    if index.is_file():
        found = json.loads(index.read_text())
        found["metadata"]["total_parameters"] = num_parameters
        index.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def merged(model: Any, job: TrainingJob) -> Any:
    """The plain model with a LoRA's update in its weights: added in float32, a layer at a time, and
    rounded so that it is not lost (``psr_ray.training.rounding``)."""
    for name, layer in model.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        weights = dict(layer.get_base_layer().named_parameters(recurse=False))
        dtypes = {leaf: value.dtype for leaf, value in weights.items()}
        for value in weights.values():
            value.data = value.float()
        layer.merge()
        for leaf, value in weights.items():
            value.data = round_stochastically(
                value, dtypes[leaf], seed_of(job, f"{name}.{leaf}", MERGE)
            )
    return model.unload()


def merged_weights(model: Any, job: TrainingJob) -> Iterator[tuple[str, torch.Tensor]]:
    """The entries of the model's state dict as they are without a LoRA (``merged``), one at a time, tied
    ones once. With ZeRO-3 all workers must go through it, and a tensor is there until the next one."""
    is_sharded = job.training.zero_stage == 3
    is_lora = hasattr(model, "peft_config")
    plain = model.get_base_model() if is_lora else model
    seen = set[int]()
    for name, value in plain.state_dict(keep_vars=True).items():
        if id(value) in seen or ".lora_" in name:
            continue
        seen.add(id(value))
        layer, _, leaf = name.rpartition(".base_layer.")
        updated = plain.get_submodule(layer) if layer and leaf == "weight" else None
        parts = list(updated.parameters()) if updated is not None else [value]
        parts = [part for part in parts if isinstance(part, torch.nn.Parameter)]
        with torch.no_grad(), deepspeed.zero.GatheredParameters(parts, enabled=is_sharded):
            whole = value.detach()
            if updated is not None:
                whole = whole.float()
                for adapter in updated.active_adapters:
                    whole = whole + updated.get_delta_weight(adapter)
                whole = round_stochastically(whole, value.dtype, seed_of(job, name, MERGE))
            yield name.replace(".base_layer.", "."), whole


def on_disk(
    weights: Iterator[tuple[str, torch.Tensor]], folder: Path, most_bytes: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """The same tensors, read from files in a folder as they are used; ``most_bytes`` of them are in
    memory before they are written."""
    folder.mkdir()
    kept: dict[str, torch.Tensor] = {}
    num_files = 0

    def flushed() -> Iterator[tuple[str, torch.Tensor]]:
        path = folder / f"{num_files}.safetensors"
        save_file(kept, path)
        kept.clear()
        yield from load_file(path).items()  # mapped into memory, not read

    for name, value in weights:
        if kept and sum(t.nbytes for t in kept.values()) + value.nbytes > most_bytes:
            yield from flushed()
            num_files += 1
        kept[name] = value.to("cpu", copy=True).contiguous()
    yield from flushed()
