"""Write grafana/psr-ray.json: a dashboard of what psr_ray.telemetry.counters counts.

python scripts/make_grafana.py        (--check: only say whether it is up to date)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from psr_ray.telemetry.counters import COUNTERS, GAUGES

PAGE = Path(__file__).parent.parent / "grafana" / "psr-ray.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = '{run=~"$run", iteration=~"$iteration"}'


def rate(name: str) -> str:
    """A counter as so many a second, over all processes."""
    return f"sum by (run, stage) (rate(ray_psr_ray_{name}_total{CHOSEN}[1m]))"


def ratio(part: str, whole: str) -> str:
    """One counter over another, in the last five minutes."""
    top, bottom = (
        f"sum by (run, stage) (increase(ray_psr_ray_{n}_total{CHOSEN}[5m]))" for n in (part, whole)
    )
    return f"{top} / {bottom}"


PANELS = [
    ("Problems a second", "short", rate("problems")),
    ("Sampled tokens a second", "short", rate("sampled_tokens")),
    ("Judge tokens a second", "short", rate("judge_tokens")),
    ("Comparison tokens a second", "short", rate("compare_tokens")),
    ("Work tokens a second", "short", rate("work_tokens")),
    ("Critique tokens a second", "short", rate("critique_tokens")),
    ("Judge tokens a pair", "short", ratio("judge_tokens", "pairs")),
    ("Step preferences a second", "short", rate("pairs")),
    ("Verdicts a second", "short", rate("verdicts")),
    ("Steps a second", "short", rate("steps")),
    ("Prefix cache hits", "percentunit", ratio("cached_tokens", "prompt_tokens")),
    ("Unparsable verdicts", "percentunit", ratio("unparsable", "verdicts")),
    ("Order flips a verdict", "percentunit", ratio("flips", "verdicts")),
    ("Ties a step", "percentunit", ratio("ties", "steps")),
    ("Failed rows", "percentunit", ratio("failed_rows", "problems")),
    ("Training loss", "short", f"ray_psr_ray_loss{CHOSEN}"),
    ("Optimizer steps", "short", f"ray_psr_ray_step{CHOSEN}"),
    ("Training tokens a second", "short", f"ray_psr_ray_tokens_per_s{CHOSEN}"),
]


def panel(index: int, title: str, unit: str, expression: str) -> dict[str, Any]:
    """A graph, three in a row."""
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": index % 3 * 8, "y": index // 3 * 8, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {
                "refId": "A",
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": "{{run}} {{stage}}",
            }
        ],
    }


def variable(name: str) -> dict[str, Any]:
    """A choice of runs, or iterations, at the top."""
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": f"label_values(ray_psr_ray_problems_total, {name})",
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> str:
    """The whole file."""
    source = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    values = {
        "title": "psr-ray",
        "uid": "psr-ray",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, variable("run"), variable("iteration")]},
        "panels": [panel(index, *values) for index, values in enumerate(PANELS)],
    }
    shown = "".join(expression for _, _, expression in PANELS)
    names = [f"ray_psr_ray_{n}_total" for n in COUNTERS] + [f"ray_psr_ray_{n}{{" for n in GAUGES]
    missing = [name for name in names if name not in shown]
    assert not missing, f"no panel shows {missing}"
    return json.dumps(values, indent=1) + "\n"


if __name__ == "__main__":
    text = dashboard()
    if "--check" in sys.argv:
        if not PAGE.is_file() or PAGE.read_text() != text:
            sys.exit(f"{PAGE.name}: not what the metrics give; run scripts/make_grafana.py")
    else:
        PAGE.write_text(text)
