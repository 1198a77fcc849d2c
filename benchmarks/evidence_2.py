"""results/evidence-2.json: what configs/harder.yaml and configs/contrast.yaml found, in one small file.

python -m benchmarks.evidence_2            (writes it from results/harder.json and results/contrast.json)
python -m benchmarks.evidence_2 --check    (fails where it differs)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
STORED = RESULTS / "evidence-2.json"


def path_of(method: dict[str, Any]) -> dict[str, Any]:
    """A method's accuracy on the harder set: of M1, of the last model, and of that seed by seed."""
    names = list(method["models"])
    return {
        "M1": method["models"][names[0]]["accuracy"],
        "last": method["models"][names[-1]]["accuracy"],
        "seeds": [seed["accuracy"][names[-1]] for seed in method["seeds"]],
    }


def contrast_figures(contrast: dict[str, Any]) -> list[dict[str, Any]]:
    """DPO against the chosen side's NLL, condition by condition."""
    found = []
    for key, (one, other) in contrast["differences"].items():
        row = {"condition": one.removeprefix("dpo").strip("-") or "all pairs"}
        row |= {name: path_of(contrast["methods"][name])["last"] for name in (one, other)}
        for measure in ("", "_judge_accuracy_on_policy", "_pass_at_8"):
            if f"{key}{measure}" in contrast:
                name = measure.strip("_") or "accuracy"
                row[f"{name}_difference"] = contrast[f"{key}{measure}"]
                row[f"{name}_difference_ci95"] = contrast[f"{key}{measure}_ci95"]
        found.append(row)
    return found


def figures() -> dict[str, Any]:
    """The file's content."""
    harder = json.loads((RESULTS / "harder.json").read_text())
    stored = RESULTS / "contrast.json"
    low, high = harder["process_minus_refresh_ci95"]
    return {
        "hard": {name: path_of(harder["methods"][name]) for name in ("process", "oracle")},
        "refresh_minus_none": -harder["process_minus_refresh"],
        "refresh_minus_none_ci95": [-high, -low],
        "judge_hard_by_round": {
            name: [
                model["health"]["judge_accuracy_on_policy"]
                for model in harder["methods"][name]["models"].values()
            ]
            for name in ("process", "replay", "refresh", "refresh-truth")
        },
        "contrast": contrast_figures(json.loads(stored.read_text())) if stored.exists() else [],
    }


def main() -> None:
    """Write, or check."""
    text = json.dumps(figures(), indent=1) + "\n"
    if "--check" not in sys.argv:
        STORED.write_text(text)
    elif not STORED.exists() or STORED.read_text() != text:
        sys.exit(
            "results/evidence-2.json is not what the records give: run python -m benchmarks.evidence_2"
        )


if __name__ == "__main__":
    main()
