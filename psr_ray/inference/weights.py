"""New weights in a running engine, and the proof that it answers by them.

A training ends with a *proof*: log-probabilities of some of its completions under the weights that it
exports. An engine scores the same completions. One that has loaded new weights in place and answers
otherwise is not used; a fresh one that does raises an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psr_ray.runs import MODEL_FOLDER
from psr_ray.storage.files import Json, read_json
from psr_ray.storage.locations import location

if TYPE_CHECKING:
    from pathlib import Path

# In a training's folder, beside the model.
PROOF_FILE = "proof.json"
# What a config must have in common with that of the weights in an engine.
SHAPE = (
    "architectures",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
    "quantization_config",
)
# Nats a token by which an engine's answers may differ from the trainer's: other kernels and shapes.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.2}
# Changes of this size or less are not told from rounding.
ROUNDING = {"float32": 1e-5, "bfloat16": 0.02}


@dataclass(frozen=True)
class Proof:
    """Completions and the trainer's log-probability of each, summed over its tokens."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    logprobs: list[float]

    def difference(self, first: Sequence[float], second: Sequence[float]) -> float:
        """Root mean square difference of two lists of answers, in nats a token."""
        squares = [
            ((a - b) / len(ids)) ** 2
            for a, b, ids in zip(first, second, self.completion_ids, strict=True)
        ]
        return math.sqrt(sum(squares) / len(squares))

    def within(self, max_length: int) -> Proof | None:
        """The completions that an engine of this many tokens can score; None where there is none."""
        rows = zip(self.prompt_ids, self.completion_ids, self.logprobs, strict=True)
        kept = [row for row in rows if len(row[0]) + len(row[1]) < max_length]
        return Proof(*map(list, zip(*kept, strict=True))) if kept else None


def proof_of(model: str | Path) -> Proof | None:
    """The proof of a model that a training has exported; None for any other model."""
    folder = location(model)
    found = read_json(folder.parent / PROOF_FILE) if folder.name == MODEL_FOLDER else None
    return None if found is None else Proof(**found)


def shape_of(folder: str) -> Json:
    """What the config of a model says of its weights' shapes."""
    config = read_json(location(folder) / "config.json") or {}
    return {name: config[name] for name in SHAPE if name in config}


def misfit(held: Json, shape: Json) -> str | None:
    """Why weights of a shape do not go into an engine that was started with another; None where they do.
    What one of them leaves unsaid is not compared. Number types may differ: the engine's stays."""
    for name in held.keys() & shape.keys():
        if held[name] != shape[name]:
            return f"its {name} is {shape[name]}, the engine's {held[name]}"
    return None


def doubt(
    proof: Proof, answers: Sequence[float], before: Sequence[float] | None, dtype: str
) -> str | None:
    """Why an engine's answers are not those of the new weights; None where they are.

    ``before`` are its answers under the weights that it had before, where it had others. They differ
    from the trainer's by rounding alone; answers that did not change at all, or are not much nearer to
    the trainer's than those before, are of stale or half-loaded weights.
    """
    error = proof.difference(answers, proof.logprobs)
    if not error <= TOLERANCES[dtype]:
        return f"its answers differ from the trainer's by {error:.2g} nats a token"
    if before is None:
        return None
    if list(answers) == list(before):
        return "its answers have not changed"
    change = proof.difference(before, proof.logprobs)
    if change > ROUNDING[dtype] and error > change / 2:
        return f"its answers moved from {change:.2g} to {error:.2g} nats a token from the trainer's"
    return None


class ReloadingWorker:
    """What vLLM's workers can do beside their own: ``worker_extension_cls`` mixes this in, and
    ``collective_rpc`` calls it by name."""

    def load_in_place(self: Any, folder: str) -> None:
        """Load the weights of a folder of the same architecture into the running model.

        vLLM 0.32 leaves the copy of a tied output head that its CPU kernels use as it was: the answers
        were then of neither model. So it is made again.
        """
        self.reload_weights(weights_path=folder)
        for module in self.model_runner.get_model().modules():
            method: Any = getattr(module, "quant_method", None)
            if type(method).__name__ == "UnquantizedEmbeddingMethod":
                method.process_weights_after_loading(module)
