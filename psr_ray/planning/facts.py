"""What a model's small files say about it: its context, its chat template, whether it follows
instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from psr_ray.errors import PsrError
from psr_ray.planning.model import model_config, model_file
from psr_ray.storage.files import Json, read_json

# Longest sequence asked for, where the model's context allows it.
LENGTH = 4096


@dataclass(frozen=True)
class ModelFacts:
    """A model by its small files."""

    base: str
    context: int
    has_chat_template: bool
    why_base: str | None
    """Why it looks like a base model; None for one that looks as if it followed instructions. Some base
    models have a chat template, too; no token that ends their texts is in it."""


def model_facts(base: str) -> ModelFacts:
    """A model folder's or Hub id's facts; of the Hub, only small files are fetched.

    Raises ``PsrError`` where it holds no config.
    """

    config = model_config(base)
    if config is None:
        raise PsrError(f"--model {base}: no config.json; give a Hugging Face folder or a Hub id")
    settings = json_file(base, "tokenizer_config.json")
    own = model_file(base, "chat_template.jinja")
    template = str(settings.get("chat_template") or (own.read_text() if own else ""))
    why_base = None
    if not template:
        why_base = "it has no chat template"
    elif re.search(r"(^|[-_.])base($|[-_.])", Path(base).name.lower()):
        why_base = "its name says so"
    elif not any(end in template for end in ("eos_token", *ends_of(base, settings))):
        why_base = "its chat template has no token that ends its texts"
    length = int(config.get("max_position_embeddings") or LENGTH)
    return ModelFacts(base, length, bool(template), why_base)


def json_file(base: str, name: str) -> Json:
    """The object in a small file of a model; an empty one where it has no such file."""
    path = model_file(base, name)
    return {} if path is None else read_json(path, "fetch the model again") or {}


def ends_of(base: str, tokenizer: Json) -> list[str]:
    """The tokens that end a model's texts, by its tokenizer's settings and those of its generation."""
    eos = tokenizer.get("eos_token")
    found = [eos.get("content") if isinstance(eos, dict) else eos]
    ids = json_file(base, "generation_config.json").get("eos_token_id")
    wanted = set(map(str, ids if isinstance(ids, list) else [ids])) - {"None"}
    added = tokenizer.get("added_tokens_decoder") or {}
    if wanted - added.keys():  # transformers 5 no longer writes them there
        tokens = json_file(base, "tokenizer.json").get("added_tokens") or []
        added = {str(token["id"]): token for token in tokens}
    found += [added[name]["content"] for name in wanted & added.keys()]
    return [token for token in found if token]
