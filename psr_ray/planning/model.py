"""A model's shape for planning: its parameters and the KV cache of a token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from psr_ray.config import ModelConfig
from psr_ray.data.hub import small_file
from psr_ray.errors import PsrError
from psr_ray.storage.files import Json, read_json
from psr_ray.storage.locations import is_hub_id, model_location

# Models that the shipped configs name by Hub id, from their published config.json: planning needs no
# network. (hidden size, layers, attention heads, KV heads, intermediate size, vocabulary, tied)
KNOWN = {
    "Qwen/Qwen2.5-Math-1.5B": (1536, 28, 12, 2, 8960, 151936, True),
    "Qwen/Qwen2.5-Math-1.5B-Instruct": (1536, 28, 12, 2, 8960, 151936, True),
    "Qwen/Qwen2.5-Math-7B": (3584, 28, 28, 4, 18944, 152064, False),
    "Qwen/Qwen2.5-Math-72B": (8192, 80, 64, 8, 29568, 152064, False),
}
NAMES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "intermediate_size", "vocab_size", "tie_word_embeddings",
)  # fmt: skip


@dataclass(frozen=True)
class ModelShape:
    """A decoder's shape. ``width`` is the bytes of a number of the weights and of the KV cache."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool
    width: int

    @property
    def parameters(self) -> int:
        """Weights of attention, gated MLP and embeddings; norms and biases (below 0.1 %) left out."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        mlp = 3 * self.hidden * self.intermediate
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * (attention + mlp) + embeddings

    @property
    def weight_bytes(self) -> int:
        return self.parameters * self.width

    @property
    def kv_bytes(self) -> int:
        """KV cache of one token: a key and a value for each KV head of each layer."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.width


def model_file(base: str, name: str) -> Path | None:
    """A small file of a model folder or of a Hub id; None where the model has none of that name.

    Raises ``PsrError`` where a Hub id cannot be reached.
    """
    if not model_location(base).is_dir():
        return small_file(base, name)
    path = model_location(base) / name
    return path if path.is_file() else None


def model_config(base: str) -> Json | None:
    """The config.json of a model's decoder; None where the model has none. Raises as ``model_file``."""
    path = model_file(base, "config.json")
    if path is None:
        return None
    values = read_json(path, "fetch the model again") or {}
    return values.get("text_config") or values


def model_shape(model: ModelConfig) -> ModelShape | None:
    """The shape of a model folder, or of a Hub id (its config is fetched, unless ``KNOWN`` has it); None
    where it is not known."""
    known = KNOWN.get(model.base)
    if known is not None:
        values: Json | None = dict(zip(NAMES, known, strict=True))
    elif is_hub_id(model.base) or model_location(model.base).is_dir():
        try:
            values = model_config(model.base)
        except PsrError:  # out of reach: planned without its memory, which is reported
            return None
    else:
        return None
    if values is None:
        return None
    try:
        hidden, heads = int(values["hidden_size"]), int(values["num_attention_heads"])
        return ModelShape(
            hidden=hidden,
            layers=int(values["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(values.get("num_key_value_heads") or heads),
            head_size=int(values.get("head_dim") or hidden // heads),
            intermediate=int(values["intermediate_size"]),
            vocabulary=int(values["vocab_size"]),
            tied=bool(values.get("tie_word_embeddings")),
            width=4 if model.dtype == "float32" else 2,
        )
    except KeyError:
        return None
