"""docs/performance.md, reliability.md, judging.md and real-model.md from the stored results.

python -m benchmarks.page            (writes them)
python -m benchmarks.page --check    (fails where one differs)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jinja2

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
MEASURED, REAL = HERE / "results", HERE.parent / "results" / "real"
RESULTS = {
    "performance": (
        MEASURED,
        ("train", "gpu_train", "search", "gpu_search", "scale", "submission", "rounds", "held"),
    ),
    "reliability": (MEASURED, ("faults", "soak", "fuzz")),
    "judging": (MEASURED, ("judging",)),
    "real-model": (REAL, ("qwen2.5-coder-0.5b-instruct",)),
}


def times(ratio: dict[str, float]) -> str:
    """``4.1× [3.9-4.3]``."""
    return f"{ratio['median']:.2f}× [{ratio['min']:.2f}-{ratio['max']:.2f}]"


def percent(share: dict[str, float]) -> str:
    """``91 % [90-92]``."""
    return f"{100 * share['median']:.0f} % [{100 * share['min']:.0f}-{100 * share['max']:.0f}]"


def versions(result: dict[str, Any]) -> str:
    """Versions, threads and commit of a result."""
    named = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"python {result['python']}, {named}, commit {result['commit']}"


def render(page: str) -> str:
    """A page's text."""
    folder, names = RESULTS[page]
    stored = {
        name: json.loads(path.read_text()) if path.exists() else None
        for name in names
        for path in [folder / f"{name}.json"]
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined, autoescape=False
    )
    environment.globals |= {"times": times, "percent": percent, "versions": versions}
    template = environment.get_template(f"{page}.md.jinja")
    return template.render(**stored, stored=stored) + "\n"


def main() -> None:
    """Write, or check."""
    for page in RESULTS:
        path, text = DOCS / f"{page}.md", render(page)
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(
                f"docs/{page}.md differs from the stored results: run python -m benchmarks.page"
            )


if __name__ == "__main__":
    main()
