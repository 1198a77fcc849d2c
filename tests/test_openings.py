"""Steps whose beginning (`Step n:`) is given to the model and not sampled."""

import pytest
from scripted import character_prompts, drive, prefers

from psr_ray.config import Config
from psr_ray.data.rows import problem_row
from psr_ray.inference.search_rows import search_row
from psr_ray.inference.tasks import TASKS
from psr_ray.measures.probes import probes_in
from psr_ray.method.preferences import preferences_of, solution_of
from psr_ray.method.ranking import ranking_of
from psr_ray.method.search import ProblemTooLong, search_steps
from psr_ray.problems import Problem
from psr_ray.training.examples import ift_example

PROBLEM = Problem("p", "How many?", answer="7", plan="3+4")
NUMBERED = character_prompts("\nStep {n}:")


def test_with_a_number_in_the_stop_text_the_beginning_of_a_step_is_given_and_not_sampled():
    config = Config(
        name="test",
        model={"base": "none", "max_length": 6000},
        search={"num_candidates": 2, "max_step_tokens": 40},
    )
    asked = []

    def sample(prompt, n):
        asked.append(prompt)
        return [" 3+4\nStep ", " 3-4\nStep "] if "3+4" not in prompt else [" 7$", " 8$"]

    task = search_steps(PROBLEM, NUMBERED, ranking_of(config, NUMBERED), config)
    search, requests = drive(task, sample, prefers("Step 1: 3+4", "Step 2: 7"), NUMBERED)
    prompt = NUMBERED.decode(NUMBERED.solve_ids("How many?"))
    assert asked == [f"{prompt}Step 1:", f"{prompt}Step 1: 3+4\nStep 2:"]
    assert requests[0].stop == "\nStep "
    # what is judged, shown and graded are complete steps
    assert [c.text for c in search.chosen()] == ["Step 1: 3+4", "Step 2: 7"]
    row = search_row(search)
    first, second = preferences_of(row)
    texts = [NUMBERED.decode(first[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
    assert texts == [f"{prompt}Step 1:", " 3+4\n", " 3-4\n"]  # the opening is no one's to learn
    assert NUMBERED.decode(second["prompt_ids"]) == asked[1]
    assert NUMBERED.decode(solution_of(row)["completion_ids"]) == "Step 1: 3+4\nStep 2: 7"
    first_probe, second_probe = probes_in(row)
    assert NUMBERED.decode(first_probe["prefix_ids"]) == asked[0]
    assert NUMBERED.decode(second_probe["prefix_ids"]) == asked[1]


def test_an_opened_step_that_is_left_empty_is_cut_off_and_does_not_get_a_second_heading():
    config = Config(
        name="test",
        model={"base": "none", "max_length": 6000},
        search={"num_candidates": 3, "max_step_tokens": 40},
    )

    def sample(prompt, n):
        assert n == 3  # nothing is asked again
        return ["\nStep ", " 3+4$", " 3-4$"]

    task = search_steps(PROBLEM, NUMBERED, ranking_of(config, NUMBERED), config)
    search, _ = drive(task, sample, prefers("Step 1: 3+4"), NUMBERED)
    [step] = search.steps
    assert [c.text for c in step.candidates] == ["Step 1: 3+4", "Step 1: 3-4"]
    assert step.num_truncated == 1


def test_the_room_of_a_step_counts_its_opening():
    prompt, opening = NUMBERED.solve_ids("How many?"), NUMBERED.opening_ids(1)
    for room, end in ((0, "finished"), (-1, None)):
        config = Config(
            name="test",
            model={"base": "none", "max_length": len(prompt) + len(opening) + 40 + room},
            search={"num_candidates": 2, "max_step_tokens": 40},
            judge={"max_tokens": 1},
            method={"ranking": "random"},
        )
        task = search_steps(PROBLEM, NUMBERED, ranking_of(config, NUMBERED), config)
        if end is None:
            with pytest.raises(ProblemTooLong):
                next(task)
        else:
            assert drive(task, lambda *_: [" 7$", " 8$"], None, NUMBERED)[0].end == end


def test_complete_solutions_begin_with_the_opening_of_their_first_step():
    row = problem_row("solve", Problem("p", "How many?", answer="7"))
    config = Config(name="test", model={"base": "none", "max_length": 6000})
    solved, [request] = drive(
        TASKS["solve"].run(row, NUMBERED, config),
        lambda *_: [" 3+4\nStep 2: \\boxed{7}$"],
        None,
        NUMBERED,
    )
    assert NUMBERED.decode(request.prompt_ids).endswith("Step 1:")
    assert solved["text"] == "Step 1: 3+4\nStep 2: \\boxed{7}"
    assert (solved["num_steps"], solved["correct"]) == (2, True)
    example = ift_example(row | {"solution": "Step 1: 7"}, NUMBERED)  # learned with its beginning
    assert NUMBERED.decode(example.completion_ids) == "Step 1: 7"
    assert example.prompt_ids + NUMBERED.opening_ids(1) == request.prompt_ids
