"""Where a solution states its answer."""

from __future__ import annotations


def extract_boxed(solution: str) -> str | None:
    """The content of the last whole ``\\boxed{...}``, braces balanced; None where there is none."""
    start = solution.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for position in range(start + len("\\boxed"), len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[position], 0)
        if depth == 0:
            return solution[start + len("\\boxed{") : position].strip()
    return None
