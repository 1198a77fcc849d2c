"""Put the newest demo run into the README: its table, its figure, its headline.

python scripts/show_demo.py            (from runs/demo; stores what it shows in docs/demo)
python scripts/show_demo.py --check    (fails where the README differs from docs/demo)
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path

from rich import box
from rich.console import Console

from psr_ray.report.display import duration, model_table
from psr_ray.report.html import headline

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "docs" / "demo"
BLOCK = re.compile(r"(<!-- demo:begin -->\n).*(<!-- demo:end -->)", re.DOTALL)


def block(summary: dict) -> str:
    """The README's part about the demo, from its summary alone."""
    console = Console(width=126, file=io.StringIO(), color_system=None)
    table = model_table(summary)
    table.box = box.ASCII2
    console.print(table)
    screen = console.file.getvalue().rstrip()  # type: ignore[attr-defined]
    wall = duration(sum(summary["wall_s"].values()))
    memory = summary["peak_rss_bytes"] / 2**30
    versions = ", ".join(f"{n} {v}" for n, v in summary["versions"].items())
    return (
        "The end of `make demo` on two CPU cores (stored in `docs/demo/summary.json`; M0 is the base "
        f"model, M1 the fine-tuned one; all stages {wall}, {memory:.1f} GiB at the peak):\n\n"
        f"```\n{screen}\n```\n\n{headline(summary['models'])} One seed. The problems are made for "
        "the method: the seed solutions are those of a careless solver, and two loss terms that the "
        "paper does not have keep the model stable (named in `configs/demo.yaml`, explained in "
        "`docs/design.md` and `docs/negative-results.md`). The demo shows that the loop works, not "
        "that it will for your "
        "model.\n\n"
        "![accuracy, judge and steps by model](docs/demo/report.png)\n\n"
        f"<sub>{versions}</sub>\n"
    )


def main() -> None:
    """Store and show, or check."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    if "--check" not in sys.argv:
        STORE.mkdir(parents=True, exist_ok=True)
        for name in ("summary.json", "report.png"):
            shutil.copy(ROOT / "runs" / "demo" / name, STORE / name)
    new = block(json.loads((STORE / "summary.json").read_text()))
    shown = BLOCK.sub(lambda match: match[1] + new + match[2], text)
    if "--check" in sys.argv:
        if shown != text:
            sys.exit("README.md: the demo's part differs from docs/demo: run scripts/show_demo.py")
        return
    readme.write_text(shown)


if __name__ == "__main__":
    main()
