"""Pairs whose verdicts are turned round by chance: the share asked for, the same ones each time."""

import pytest
from scripted import character_prompts, drive, prefers

from psr_ray.config import Config
from psr_ray.method.ranking import ranking_of
from psr_ray.method.search import search_steps
from psr_ray.problems import Problem

PROMPTS = character_prompts()
STEPS = ("7\n", "5\n", "3\n", "2$")


def verdicts(ranking, seed=0, num=60):
    """Verdicts of first steps, of a judge that prefers what stands earlier in ``STEPS``."""
    config = Config(
        name="test",
        seed=seed,
        model={"base": "none", "max_length": 6000},
        search={"num_candidates": 4, "max_steps": 1, "max_step_tokens": 40},
        method={"ranking": ranking},
        judge={"verdicts": "hard", "comparisons": "all"},
    )
    found = {}
    for number in range(num):
        problem = Problem(f"p{number}", "?")
        task = search_steps(problem, PROMPTS, ranking_of(config, PROMPTS), config)
        search, _ = drive(task, lambda *_: list(STEPS), prefers("7", "5", "3", "2"), PROMPTS)
        for comparison, verdict in search.steps[0].verdicts.items():
            found[number, comparison] = verdict.first_wins
    return found


@pytest.mark.parametrize(("name", "share"), [("Flips10", 0.1), ("Flips20", 0.2), ("Flips30", 0.3)])
def test_a_share_of_the_pairs_is_turned_round(name, share):
    plain, noisy = verdicts("pairwise"), verdicts(f"benchmarks.noisy_verdicts:{name}")
    assert plain.keys() == noisy.keys()
    turned = {key for key, value in plain.items() if noisy[key] == 1 - value}
    assert all(noisy[key] == plain[key] for key in plain.keys() - turned)
    error = (share * (1 - share) / (len(plain) / 2)) ** 0.5
    assert len(turned) / len(plain) == pytest.approx(share, abs=4 * error)
    assert {(number, comparison.swap()) for number, comparison in turned} == turned


def test_the_same_verdicts_each_time_others_for_another_seed():
    noisy = "benchmarks.noisy_verdicts:Flips20"
    assert verdicts(noisy) == verdicts(noisy)
    assert verdicts(noisy) != verdicts(noisy, seed=1)
