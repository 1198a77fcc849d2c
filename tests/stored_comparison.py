"""A comparison of three methods and two seeds with stored records, made up: nothing is run."""

import json

from psr_ray.compare.config import CompareConfig
from psr_ray.compare.evidence import update_evidence
from psr_ray.compare.results import render


def record(method, seed, m1, m2, num=100, problems="x"):
    def solved(share):
        return "1" * round(share * num) + "0" * (num - round(share * num))

    def entry(name, accuracy):
        ways = {
            "greedy": solved(accuracy),
            "search": solved(accuracy + 0.1),
            "majority": solved(accuracy),
        }
        return {
            "name": name,
            "accuracy": accuracy,
            "test_time": {
                "num_problems": num, "search_tokens": 100.0, "majority_tokens": 90.0,
                "majority_samples": 3, "correct": ways,
            },
        }  # fmt: skip

    return {
        "method": method, "seed": seed, "key": "k", "settings": {},
        "models": [{"name": "M0", "accuracy": 0.0}, entry("M1", m1), entry("M2", m2)],
        "alarms": [{"kind": "length bias", "model": "M2", "message": "long"}] if seed else [],
        "correct": {
            "M1": {"heldout": solved(m1), "hard": ""}, "M2": {"heldout": solved(m2), "hard": ""}
        },
        "problems": {"heldout": problems},
        "cost": {"num_sampled_tokens": 10, "num_judge_tokens": 20, "num_pairs": 5, "wall_s": 1.0},
        "wall_s": {"sft": 60.0}, "versions": {"python": "3"},
    }  # fmt: skip


def small_comparison(folder):
    """Its config, and its records in a folder."""
    comparison = CompareConfig(
        name="small",
        base="configs/demo.yaml",
        overrides={},
        methods={"process": {}, "outcome": {}, "random-pairs": {}},
        seeds=(0, 1),
        results_dir=str(folder / "results"),
    )
    comparison.records.mkdir(parents=True)
    for seed in (0, 1):
        for method, m2 in (("process", 0.7), ("outcome", 0.55), ("random-pairs", 0.5 - 0.1 * seed)):
            values = record(method, seed, 0.5, m2)
            (comparison.records / f"{method}-seed-{seed}.json").write_text(json.dumps(values))
    return comparison


def rewrite(comparison, method, seed, **changes):
    """Change a stored record."""
    path = comparison.record(method, seed)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def page_of(comparison):
    evidence, _ = update_evidence(comparison)
    return " ".join(render(evidence, {"accuracy": "a.svg", "health": "h.svg"}).split())
