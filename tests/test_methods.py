"""Baselines and controls: what differs from the paper's method, on the same search."""

from scripted import character_prompts, drive

from psr_ray.config import Config
from psr_ray.embedded.arithmetic import Plan, generate_problems, stated_value
from psr_ray.embedded.solutions import judged_solutions, points_judgement
from psr_ray.inference.search_rows import search_row
from psr_ray.measures.searches import figures_of
from psr_ray.method.judge import parse_points
from psr_ray.method.preferences import preferences_of, solution_of
from psr_ray.method.ranking import points_scores, ranking_of
from psr_ray.method.search import search_steps
from psr_ray.problems import Problem

PROBLEM = Problem("p", "How many?", answer="7", plan="3+4")
PROMPTS = character_prompts()


def config(**method):
    return Config(
        name="test",
        seed=3,
        model={"base": "none", "max_length": 3000},
        search={"num_candidates": 3, "max_step_tokens": 60},
        evaluation={"max_tokens": 200},
        method=method,
    )


def run(sample, answer=None, problem=PROBLEM, **method):
    settings = config(**method)
    task = search_steps(problem, PROMPTS, ranking_of(settings, PROMPTS), settings)
    search, requests = drive(task, sample, answer, PROMPTS)
    return search_row(search), requests


RIGHT, WRONG = "Step 1: 3+4=7 \\boxed{7}$", "Step 1: 3+4=8 \\boxed{8}$"


def test_oracle_prefers_the_right_step_and_asks_no_judge():
    row, requests = run(lambda prompt, n: [WRONG, WRONG, RIGHT], ranking="oracle")
    [pair] = preferences_of(row)
    assert (pair["chosen_is_right"], pair["rejected_is_right"]) == (True, False)
    assert len(requests) == 1
    assert row["num_judge_tokens"] == 0


def test_random_ranking_is_the_same_for_a_seed_and_follows_neither_order_nor_truth():
    def chosen(i):
        problem = Problem(f"p{i}", "How many?", answer="7", plan="3+4")
        row, _ = run(lambda prompt, n: [WRONG, RIGHT, RIGHT], problem=problem, ranking="random")
        [pair] = preferences_of(row)
        return pair["chosen_is_right"]

    found = [chosen(i) for i in range(200)]
    assert found == [chosen(i) for i in range(200)]
    assert 70 < sum(found) < 130


def test_longest_ranking_takes_more_tokens():
    long = "Step 1: 3+4=7 and so it is \\boxed{7}$"
    row, _ = run(lambda prompt, n: [RIGHT, long, WRONG], ranking="longest")
    [pair] = preferences_of(row)
    assert "and so it is" in pair["chosen_text"]


def test_frozen_judge_is_asked_in_place_of_the_policy():
    _, requests = run(lambda prompt, n: [RIGHT, WRONG, WRONG], lambda a, b: "[[A]]", judge="first")
    assert {r.role for r in requests if r.num_samples > 1} == {"policy"}
    assert {r.role for r in requests if r.num_samples == 1} == {"judge"}


TWO_STEPS = "Step 1: 3+4=7\nStep 2: 7-1=6 \\boxed{6}$"
TWO_WRONG = "Step 1: 3+4=8\nStep 2: 8-1=7 \\boxed{7}$"


def test_complete_solutions_are_sampled_scored_and_paired_at_once():
    problem = Problem("p", "How many?", answer="6", plan="3+4-1")

    def points(text):
        return "fine. Score: 5" if "=6" in text else "Score: 3"

    row, requests = run(
        lambda prompt, n: [TWO_WRONG, TWO_STEPS, TWO_WRONG],
        points,
        problem=problem,
        unit="solution",
        ranking="points",
    )
    [pair] = preferences_of(row)
    assert pair["chosen_text"].count("Step") == 2
    assert (pair["chosen_score"], pair["rejected_score"]) == (5, 3)
    assert (pair["chosen_is_right"], pair["rejected_is_right"]) == (True, False)
    assert len(requests) == 1 + 2  # one sampling, two different solutions scored
    assert solution_of(row)["completion_ids"] == pair["chosen_ids"]
    figures = figures_of([row]).summary()
    assert figures["ranking_accuracy"] == 1
    assert figures["unparsable_share"] == 0


def test_a_tie_of_complete_solutions_gives_no_pair():
    row, _ = run(
        lambda prompt, n: [RIGHT, WRONG, WRONG], lambda text: "Score: 4", unit="solution",
        ranking="points",
    )  # fmt: skip
    assert row["end"] == "tie"
    assert list(preferences_of(row)) == []
    assert solution_of(row) is None


def test_unparsable_points_make_a_candidate_neither_best_nor_worst():
    assert parse_points("all good. Score: 4.") == 4
    assert parse_points("Score: 7") is None
    assert parse_points("Score: 4 or so") is None
    assert points_scores([5, None, 2]) == [5.0, 3.5, 2.0]
    assert points_scores([None, None]) == [0.0, 0.0]


def test_seed_points_add_up_and_follow_the_truth():
    plan = Plan.from_key("82-19/7")
    text, points = points_judgement(plan, ["Step 1: 82-19=63", "Step 2: 63/7=8 \\boxed{8}"])
    assert text == (
        "\n82-19: 12-9=3, 8-1-1=6, so 63. A: 63 vs 63 right, 1."
        "\n63/7: 6/7=0 r 6, 63/7=9, so 9. B: 8 vs 9 wrong, 1."
        "\nForm 1. Score: 2"
    )
    assert points == 2
    text, points = points_judgement(plan, ["Step 1: 82-19=63"])
    assert text.endswith("B missing, 1.\nForm 0. Score: 1")
    judged = list(judged_solutions(200, seed=1))
    assert {parse_points(item.judgement) for item in judged} >= {1, 2, 3, 4, 5}
    for item in judged:
        assert parse_points(item.judgement) == item.points
        values = Plan.from_key(item.problem.plan).values()[1:]
        steps = item.solution.splitlines()
        right = [stated_value(step) for step in steps] == values
        assert (item.points == min(len(values), 4) + 1) == (right and "boxed" in steps[-1])


def test_hard_problems_have_more_steps_and_larger_numbers():
    problems = list(generate_problems("heldout", 50, seed=0, num_steps=(6, 7), highest=199))
    values = [Plan.from_key(p.plan).values() for p in problems]
    assert {len(v) for v in values} == {7, 8}
    assert max(max(v) for v in values) > 99
