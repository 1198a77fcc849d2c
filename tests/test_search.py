from itertools import product

import pytest
from scripted import character_prompts, drive, prefers

from psr_ray.config import Config
from psr_ray.inference.search_rows import search_row
from psr_ray.measures.searches import figures_of
from psr_ray.method.judge import parse_verdict
from psr_ray.method.preferences import preferences_of, solution_of
from psr_ray.method.ranking import ranking_of
from psr_ray.method.search import ProblemTooLong, search_steps
from psr_ray.method.steps import Candidate
from psr_ray.method.verdicts import Comparison, Verdict, scores
from psr_ray.problems import Problem

PROBLEM = Problem("p", "How many?", answer="7", plan="3+4")
PROMPTS = character_prompts()


def run(sample, judge, *, w=3, max_length=6000, method=None, judging=None, **settings):
    config = Config(
        name="test",
        model={"base": "none", "max_length": max_length},
        search={"num_candidates": w, "max_step_tokens": 40, **settings},
        method=method or {},
        judge={"verdicts": "hard", "comparisons": "all"} | (judging or {}),  # the paper's
    )
    task = search_steps(PROBLEM, PROMPTS, ranking_of(config, PROMPTS), config)
    return drive(task, sample, judge, PROMPTS)


def test_best_step_is_appended_and_best_and_worst_make_a_pair():
    def sample(prompt, n):
        return ["good\n", "fair\n", "bad\n"] if "good" not in prompt else ["end$"] * n

    search, _ = run(sample, prefers("good", "fair", "bad"))
    assert search.end == "finished"
    assert [c.text for c in search.chosen()] == ["good", "end"]
    [pair] = preferences_of(search_row(search))
    assert (pair["chosen_text"], pair["rejected_text"]) == ("good", "bad")
    assert search.steps[0].scores == [2.0, 1.0, 0.0]


def test_pair_ids_are_exactly_what_was_sampled_and_prefixes_grow_by_the_chosen_step():
    def sample(prompt, n):
        if "one" not in prompt:
            return ["one\n", "two\n", "two\n"]
        return ["three$", "four$", "four$"]

    search, _ = run(sample, prefers("one", "three"))
    first, second = preferences_of(search_row(search))
    assert first["prompt_ids"] == list(PROMPTS.solve_ids("How many?"))
    assert first["chosen_ids"] == list(map(ord, "one\n"))
    assert second["prompt_ids"] == first["prompt_ids"] + first["chosen_ids"]
    assert second["chosen_ids"] == [*map(ord, "three"), 0]  # EOS only where the model ended


def test_all_scores_equal_drops_the_previous_step_and_its_pair():
    state = {"ties": 0}

    def sample(prompt, n):
        if "first" not in prompt:
            return ["first\n", "worse\n", "worse\n"]
        if state["ties"] == 0:
            state["ties"] = 1
            return ["x\n", "y\n", "z\n"]  # the judge always says A: a tie
        return ["end$"] * n

    search, _ = run(sample, prefers("first"))
    assert [s.outcome for s in search.steps] == [
        "appended",
        "rolled_back",
        "appended",
        "appended_without_pair",
    ]
    assert [s.kept for s in search.steps] == [False, False, True, True]
    assert len(list(preferences_of(search_row(search)))) == 1
    assert search.num_rollbacks == 1


def test_verdicts_decided_before_a_rollback_are_not_asked_again():
    calls = []

    def judge(a, b):
        calls.append((a, b))
        return "[[A]]"

    search, _ = run(lambda prompt, n: ["x\n", "y\n"], judge, w=2, max_rollbacks=3)
    assert search.end == "max_rollbacks"
    assert sorted(calls) == [("x", "y"), ("y", "x")]


def test_identical_candidates_are_accepted_or_rolled_back_as_set():
    search, asked = run(lambda prompt, n: ["end$"] * n, prefers(), when_all_identical="accept")
    assert search.end == "finished"
    assert len(asked) == 1
    for when_tied in ("rollback", "append"):
        settings = {"when_all_identical": "rollback", "when_tied": when_tied}
        search, _ = run(lambda prompt, n: ["end$"] * n, prefers(), **settings)
        assert search.end == "max_rollbacks"


def test_cut_off_candidates_are_left_out_and_counted():
    search, _ = run(lambda prompt, n: ["end$", "never ends", "never ends"], prefers())
    assert search.steps[0].num_truncated == 2
    search, _ = run(lambda prompt, n: ["never ends"] * n, prefers())
    assert search.end == "step_too_long"


def test_search_ends_at_the_step_cap_and_at_the_context():
    search, _ = run(lambda prompt, n: ["step\n"] * n, prefers(), max_steps=4)
    assert (search.end, len(search.chosen())) == ("max_steps", 4)
    short = {"max_tokens": 20}
    search, _ = run(lambda prompt, n: ["step\n"] * n, prefers(), max_length=70, judging=short)
    assert search.end == "max_length"
    with pytest.raises(ProblemTooLong, match="max_length 45"):
        run(lambda prompt, n: ["step\n"] * n, prefers(), max_length=45, judging=short)


def test_rounds_that_end_in_a_rollback_count_as_the_papers_iterations_do():
    state = {"ties": 0}

    def sample(prompt, n):
        if prompt.count("\n") == 6 and state["ties"] < 3:
            state["ties"] += 1
            return [f"{state['ties']}{c}\n" for c in "xyz"]  # always A: a tie
        return ["good\n", "fair\n", "bad\n"]

    search, _ = run(sample, prefers("good", "fair"), max_steps=20)
    assert (search.end, search.num_rollbacks) == ("max_steps", 3)
    assert len(search.steps) == 20
    assert len(search.chosen()) == 14  # each of three rounds dropped itself and the step before it


def test_a_judgement_without_room_ends_the_search_and_keeps_its_pairs():
    def sample(prompt, n):
        return ["good\n", "fair\n", "bad\n"]

    room = {"max_tokens": 60, "max_points_tokens": 60}
    search, asked = run(sample, prefers("good", "fair"), max_length=120, judging=room)
    assert search.end == "max_length"
    assert len(list(preferences_of(search_row(search)))) == 6
    assert max(len(request.prompt_ids) + request.max_tokens for request in asked) <= 120
    points = {"ranking": "points"}
    search, _ = run(sample, lambda _: "Score: 3", max_length=80, judging=room, method=points)
    assert (search.end, search.num_rollbacks) == ("max_length", 0)


def test_texts_that_differ_only_in_their_end_are_no_tie():
    def sample(prompt, n):
        return ["same\n", "same$", "same$"] if "same" not in prompt else ["end$"] * n

    search, asked = run(sample, lambda a, b: "[[A]]")
    assert [s.outcome for s in search.steps] == ["appended_without_pair"]
    assert (search.end, len(asked)) == ("finished", 1)


def test_a_model_that_ends_before_a_step_has_finished_or_has_none():
    search, _ = run(lambda prompt, n: ["$"] * n, prefers())
    assert (search.end, search.steps) == ("no_step", [])
    search, _ = run(
        lambda p, n: ["$"] * n if "one" in p else ["one\n", "two\n", "$"], prefers("one")
    )
    assert (search.end, [c.text for c in search.chosen()]) == ("finished", ["one"])
    assert search.steps[0].num_truncated == 1


def test_merged_candidates_score_as_if_none_were_merged():
    texts = ["x", "x", "y", "z", "z", "z"]
    beats = {("x", "y"): 1.0, ("y", "x"): 0.0, ("x", "z"): 0.5, ("z", "x"): 0.5}
    beats |= {("y", "z"): 0.0, ("z", "y"): 1.0}
    unmerged = [
        sum(0.5 if a == b else beats[a, b] for j, b in enumerate(texts) if j != i)
        for i, a in enumerate(texts)
    ]
    merged = [Candidate((i,), t, texts.count(t), False) for i, t in enumerate("xyz")]
    verdicts = {
        Comparison(i, j): Verdict(beats["xyz"[i], "xyz"[j]])
        for i, j in product(range(3), repeat=2)
        if i != j
    }
    expected = [unmerged[texts.index(t)] for t in "xyz"]
    assert scores([c.count for c in merged], verdicts) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "first_wins"),
    [
        ("so [[A]]", 1.0),
        ("[[A]] at first, but [[B]].", 0.0),
        ("[[A]] is what it says, then nothing", None),
        ("[[C]]", None),
        ("", None),
    ],
)
def test_a_verdict_is_what_a_judgement_ends_with(text, first_wins):
    assert parse_verdict(text).first_wins == first_wins


def test_unparsable_flip_and_tie_are_three_counts():
    answers = iter(["[[A]]", "[[A]]", "nothing", "[[B]]", "[[A]]", "[[B]]"])

    def sample(prompt, n):
        return ["Step 1: 3+4=7 \\boxed{7}$", "b$", "c$"]

    search, _ = run(sample, lambda a, b: next(answers))
    shares = figures_of([search_row(search)]).summary()
    assert shares["order_flip_share"] == pytest.approx(1 / 2)  # of the pairs with two verdicts
    assert shares["unparsable_share"] == pytest.approx(1 / 6)
    assert shares["tie_share"] == 0
    assert shares["num_gradable_verdicts"] == 4  # exactly one step is right in 2 of 3 pairs


def behind_a_step(*samples, w=6, **settings):
    """A search whose first step is right, and whose later ones are these samples."""

    def sample(prompt, n):
        return (
            ["so \\boxed{7}\n", *["other\n"] * (n - 1)] if "boxed" not in prompt else list(samples)
        )

    return run(sample, prefers("so \\boxed{7}", "junk"), w=w, **settings)[0]


def test_a_solution_ends_where_at_least_half_of_the_samples_end_it():
    ended = behind_a_step(*["$"] * 5, "junk \\boxed{9}\n")
    assert (ended.end, [c.text for c in ended.chosen()]) == ("finished", ["so \\boxed{7}"])
    assert solution_of(search_row(ended)) is not None
    assert behind_a_step(*["$"] * 3, "junk\n", "a\n", "b\n").end == "finished"
    goes_on = behind_a_step(*["$"] * 2, "junk\n", "junk\n", "a\n", "b\n", max_steps=2)
    assert (goes_on.end, [c.text for c in goes_on.chosen()][1:]) == ("max_steps", ["junk"])


def test_a_sample_that_ends_beside_many_that_are_cut_off_finishes_nothing():
    assert behind_a_step("$", *["cut"] * 5).end == "step_too_long"
