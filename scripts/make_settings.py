"""docs/settings.md: every setting with its type, default and sentence, from the config's models.

python scripts/make_settings.py [--check]
"""

from __future__ import annotations

import json
import sys
import types
import typing
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "settings.md"
sys.path.insert(0, str(ROOT))

HEAD = """# Settings

<!-- Made by scripts/make_settings.py from psr_ray/config; do not edit. -->

A run is one YAML file; `--set a.b=value` overrides. An unknown key is an error, and so is a value of
another type. "paper" is arXiv 2503.03746; where it does not state a value, the sentence says so.
`psr-ray plan --config C` prints the complete config as it will be used. The settings of
`data.SOURCE` apply to each of `data`'s sources.
"""


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings models that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def shown_type(annotation: Any) -> str:
    """A type as a reader of YAML knows it."""
    if annotation is type(None):
        return "null"
    if annotation is Ellipsis:
        return "…"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return shown_type(arguments[0])
    if origin is typing.Literal:
        return " \\| ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " \\| ".join(shown_type(part) for part in arguments)
    if origin is dict:
        return "values by name"
    if origin is tuple:
        kinds = [shown_type(part) for part in arguments if part is not Ellipsis]
        return f"list of {kinds[0]}" if Ellipsis in arguments else f"[{', '.join(kinds)}]"
    if models_in(annotation):
        return "settings"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
        annotation.__name__, annotation.__name__
    )


def own_or_names(field: FieldInfo) -> tuple[str, ...]:
    """The names that a setting takes beside the user's own code (psr_ray.config.base.own_or)."""
    for data in field.metadata:
        if isinstance(data, AfterValidator) and isinstance(data.func, partial):
            return tuple(data.func.keywords["names"])
    return ()


def shown_default(field: FieldInfo) -> str:
    if field.default_factory is dict:
        return "`{}`"
    if field.default is PydanticUndefined:
        return "required"
    if models_in(field.annotation):
        return "null" if field.default is None else "below"
    return f"`{json.dumps(field.default)}`"


def lines_of(model: type[BaseModel], place: str) -> list[str]:
    """A table of a model's plain settings, then one for each group in it."""
    rows, groups = [], []
    for name, field in model.model_fields.items():
        key = f"{place}{name}"
        sentence = " ".join((field.description or "").split())
        inner = models_in(field.annotation)
        names = own_or_names(field)
        shown = (
            " \\| ".join(f"`{n}`" for n in (*names, "module:name"))
            if names
            else shown_type(field.annotation)
        )
        if inner:
            many = typing.get_origin(field.annotation) is tuple
            groups.append((inner[0], f"{key}[]." if many else f"{key}."))
            shown = "list of settings" if many else shown
        sentence = sentence or (f"see [`{key}`](#{anchor(key)})" if inner else "")
        rows.append(f"| `{name}` | {shown} | {shown_default(field)} | {sentence} |")
    heading = place.rstrip(".").removesuffix("[]") or "the run"
    text = [f"## {heading}" if place.count(".") <= 1 else f"### {heading}", ""]
    about = (model.__doc__ or "").strip().split("\n\n")[0]
    text += [" ".join(about.split()), ""] if about and place else []
    text += ["| setting | kind | default | |", "|---|---|---|---|", *rows, ""]
    seen: set[type[BaseModel]] = set()
    for inner_model, inner_place in groups:
        if inner_model.__name__ == "SourceConfig":
            if inner_model in seen or place != "data.":
                continue
            inner_place = "data.SOURCE."
        seen.add(inner_model)
        text += lines_of(inner_model, inner_place)
    return text


def anchor(key: str) -> str:
    """A heading's anchor on the page."""
    return key.lower().replace(".", "").replace("_", "_")


def page() -> str:
    from psr_ray.config import Config

    text = HEAD + "\n" + "\n".join(lines_of(Config, ""))
    for name in ("ift", "eft", "eft_solutions", "train", "judge", "heldout", "hard"):
        text = text.replace(f"(#data{name})", "(#datasource)")
    return text.rstrip() + "\n"


def main() -> None:
    made = page()
    if "--check" in sys.argv:
        if not PAGE.is_file() or PAGE.read_text() != made:
            sys.exit(
                "docs/settings.md: not what the config's models say; run scripts/make_settings.py"
            )
        return
    PAGE.write_text(made)
    print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
