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
from safetensors.torch import load_file, save_file
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from psr_ray.runs import MODEL_FOLDER
from psr_ray.storage.locations import folder_to_write, is_remote, remove
from psr_ray.training.engine import load_model
from psr_ray.training.job import TrainingJob

# Bytes of a file of weights; with ZeRO-3 rank 0 has about twice as much in its memory at once.
SHARD_BYTES = 5 * 10**9


def export(
    model: Any, tokenizer: Any, job: TrainingJob, rank: int, shard_bytes: int = SHARD_BYTES
) -> float | None:
    """Write the model's folder; a LoRA update is merged into the weights first. Returns how much of the
    update that loses (``lost_in_merging``), None without one.

    With ZeRO-3 all workers gather one parameter at a time and rank 0 keeps it on the disk, so that the
    model never has to fit into a GPU; the folder is written (and uploaded) after that, when no worker
    waits for another.
    """
    is_sharded, lora = job.training.zero_stage == 3, job.training.lora
    if rank != 0:
        if is_sharded:
            if lora is not None:
                lost_in_merging(model, is_sharded=True)
            for _ in merged_weights(model, is_sharded=True):
                pass
        return None
    if lora is not None and lora.four_bit:
        update = model
        model = get_peft_model(load_model(job), update.peft_config["default"])
        set_peft_model_state_dict(model, get_peft_model_state_dict(update))
    lost = None if lora is None else lost_in_merging(model, is_sharded=is_sharded)
    if lora is not None and not is_sharded:
        model = model.merge_and_unload()
    final = job.out / MODEL_FOLDER
    remove(final)  # left by a run that died before its manifest
    unfinished = final if is_remote(final) else job.out / f".{MODEL_FOLDER}"
    remove(unfinished)
    with folder_to_write(unfinished) as folder:
        weights = merged_weights(model, is_sharded=is_sharded)
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
    return lost


def count_parameters(index: Path, num_parameters: int) -> None:
    """Correct the number of parameters in an index of weights, where there is one: transformers counts
    a LoRA's, and none of those that are on other workers."""
    if index.is_file():
        found = json.loads(index.read_text())
        found["metadata"]["total_parameters"] = num_parameters
        index.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


def lost_in_merging(model: Any, *, is_sharded: bool) -> float | None:
    """How much of a LoRA's update rounding to the weights' dtype loses: the norm of what it changes over
    that of the update, 0 to about 1, over all plain layers; None without one. bfloat16 has 8 bits: in
    weights of size w a change below w/512 is lost. With ZeRO-3 all workers must call it."""
    error = size = 0.0
    for layer in model.modules():
        if not hasattr(layer, "get_delta_weight"):
            continue
        weights = getattr(layer.get_base_layer(), "weight", None)
        if weights is None:  # experts, which have several
            continue
        parts = list(layer.parameters())
        with torch.no_grad(), deepspeed.zero.GatheredParameters(parts, enabled=is_sharded):
            update = sum(layer.get_delta_weight(name).float() for name in layer.active_adapters)
            change = (weights.float() + update).to(weights.dtype).float() - weights.float()
            error += (change - update).square().sum().item()
            size += update.square().sum().item()
    return float((error / size) ** 0.5) if size else None


def merged_weights(model: Any, *, is_sharded: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The entries of the model's state dict as they are without a LoRA, one at a time, tied ones once.
    With ZeRO-3 (``is_sharded``) all workers must go through it, and a tensor is there until the next
    one."""
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
            merged = value.detach()
            if updated is not None:
                for adapter in updated.active_adapters:
                    merged = (merged + updated.get_delta_weight(adapter)).to(value.dtype)
            yield name.replace(".base_layer.", "."), merged


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
