"""Markdown made from templates: cards, results pages."""

from __future__ import annotations

from pathlib import Path

import jinja2


def markdown_templates(folder: Path) -> jinja2.Environment:
    """The templates of a folder, for Markdown: statements leave no blanks, texts are not escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
