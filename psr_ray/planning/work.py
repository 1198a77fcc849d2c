"""The work of each stage: rows, requests, tokens.

``tokens`` is what is to be expected, ``most`` what the config allows (all candidates differ and fill
their limits). How many candidates of a step differ is known only once a search was measured; until then
all do.
"""

from __future__ import annotations

from dataclasses import dataclass

from psr_ray.config import Config, MethodConfig, SourceConfig
from psr_ray.data.benchmarks import num_problems
from psr_ray.planning.judging import Judging, judge_of_search, judging
from psr_ray.planning.lengths import Lengths
from psr_ray.plugins import is_plugin
from psr_ray.stages import PlannedStage
from psr_ray.training.examples import batch_sizes, mixed_batches


@dataclass(frozen=True)
class Work:
    """The work of one stage. ``prompt_tokens`` are those that no earlier request of the stage shares;
    ``trained_tokens`` go through a training's forward and backward pass."""

    rows: int
    requests: int = 0
    tokens: int = 0
    most: int = 0
    prompt_tokens: int = 0
    trained_tokens: int = 0
    note: str = ""


def search_work(config: Config, source: SourceConfig, rows: int, lengths: Lengths) -> Work:
    """Searches of some problems by the config's method, without rollbacks."""
    w, method = config.search.num_candidates, config.method
    whole = method.unit == "solution"
    each_step, most_step = (
        (lengths.solution, config.evaluation.max_tokens)
        if whole
        else (min(lengths.step, config.search.max_step_tokens), config.search.max_step_tokens)
    )
    expected_steps = steps_of_source(source, lengths)
    steps = rows * (1 if whole else min(expected_steps, config.search.max_steps))
    judge = judge_of_search(config, lengths, steps / max(rows, 1)).times(rows)
    tokens = steps * w * each_step + judge.tokens
    if lengths.tokens_per_search is not None and method == MethodConfig():
        saved = 1 - judge.tokens / max(
            judge_of_search(config.as_measured(), lengths, steps / max(rows, 1)).tokens * rows, 1
        )
        tokens = rows * (lengths.tokens_per_search - saved * lengths.judge_per_search)
    again = refresh_work(config, lengths, rows, steps)
    tokens += again.tokens
    # the text so far is in the prefix cache; the judge reads it again behind its own, once a step
    prompt = rows * lengths.problem_prompt
    prompt += steps * lengths.judge_prompt if judge.requests else 0
    prompt += judge.requests * 2 * lengths.step
    return Work(
        rows,
        round(steps * w + judge.requests) + again.requests,
        round(tokens),
        round(steps * w * most_step + judge.most) + again.most,
        round(prompt),
        note=f"at most {round(steps)} preference pairs"
        + (f"; judge: {judge.tokens:,.0f} tokens by their lengths" if judge.tokens else "")
        + ("; requests of your own ranking not counted" if is_plugin(method.ranking) else ""),
    )


def refresh_work(config: Config, lengths: Lengths, rows: int, steps: float) -> Work:
    """Pairs of own steps that are judged again: judgements in both orders, and rollouts of both steps,
    each half a solution long."""
    refresh = config.refresh
    if refresh is None:
        return Work(0)
    pairs = min(rows * refresh.pairs_per_problem, round(steps))
    written = config.judge.most_tokens  # one of a judge that writes nothing, which is asked once
    judged = 2 * pairs * (refresh.num_judgements if written > 1 else 1)
    rolled = 2 * pairs * refresh.num_rollouts
    tokens = judged * min(lengths.judgement, written) + rolled * lengths.solution / 2
    most = judged * written + rolled * config.evaluation.max_tokens
    return Work(pairs, judged + rolled, round(tokens), most)


def steps_of_source(source: SourceConfig, lengths: Lengths) -> float:
    """Steps of a solution: the embedded problems know theirs."""
    return sum(source.num_steps) / 2 if source.kind == "arithmetic" else lengths.steps


def sft_work(config: Config, lengths: Lengths) -> Work:
    """Steps are exact but for rows that do not fit: batches follow from the numbers of rows."""
    data, sft = config.data, config.sft
    assert sft is not None
    eft = data.eft.num + (data.eft_solutions.num if data.eft_solutions is not None else 0)
    plan = mixed_batches(
        data.ift.num, eft, sft.ift_per_batch, sft.num_epochs, sft.batch_size, config.seed
    )
    used = [index for batch in plan for index in batch]
    num_ift = sum(index < data.ift.num for index in used)
    trained = num_ift * (lengths.problem_prompt + lengths.solution)
    trained += (len(used) - num_ift) * (lengths.judge_prompt + lengths.judgement)
    return Work(
        data.ift.num + eft, trained_tokens=round(trained), note=f"{len(plan)} optimizer steps"
    )


def dpo_work(config: Config, source: SourceConfig, lengths: Lengths) -> Work:
    """A search is one token tree: its prompt and chosen steps once, its rejected steps beside them."""
    steps = steps_of_source(source, lengths)
    pairs, dpo = round(source.num * steps), config.dpo
    count = len(batch_sizes(pairs, dpo.num_epochs, dpo.batch_size))
    tree = lengths.problem_prompt + 2 * steps * lengths.step
    trained = dpo.num_epochs * source.num * tree
    trained += count * dpo.solutions_per_batch * (lengths.problem_prompt + lengths.solution)
    if config.refresh is not None:
        trained += count * config.refresh.per_batch * (lengths.judge_prompt + lengths.judgement)
    return Work(pairs, trained_tokens=round(trained), note=f"at most {count} optimizer steps")


def evaluation_work(config: Config, model: str, lengths: Lengths) -> Work:
    """Greedy solutions and fixed pairs; searches, samples and probes for all models but M0."""
    data, settings = config.data, config.evaluation
    of_benchmarks = [num_problems(n, settings.num_benchmark_problems) for n in data.benchmarks]
    solved = data.heldout.num + (data.hard.num if data.hard is not None else 0) + sum(of_benchmarks)
    judged = data.judge.num if data.judge is not None else 0
    fixed = judging(config, lengths, 2, 2).times(judged)
    rows, requests = solved + judged, solved + fixed.requests
    tokens = solved * min(lengths.solution, settings.max_tokens) + fixed.tokens
    limit = solved * settings.max_tokens + fixed.most
    prompt = solved * lengths.problem_prompt + 2 * judged * lengths.judge_prompt
    if model != "M0":
        most = settings.num_search_problems
        again = min(most, data.heldout.num)
        if settings.search_benchmarks:
            again += sum(min(most, num) for num in of_benchmarks)
        best_of, num = Judging(), settings.num_samples
        if settings.best_of:
            best_of = judging(config, lengths, num * (num - 1), num).times(again)
        searched = search_work(config.as_measured(), data.heldout, again, lengths)
        rows += 2 * again
        requests += searched.requests + again * num + best_of.requests
        tokens += searched.tokens + again * num * lengths.solution + best_of.tokens
        limit += searched.most + again * num * settings.max_tokens + best_of.most
        prompt += searched.prompt_tokens + best_of.requests * 2 * lengths.solution
    return Work(rows, round(requests), round(tokens), round(limit), round(prompt))


def seed_work(config: Config, name: str, lengths: Lengths) -> Work:
    """Divided solutions; step trees with their rollouts, and at most one judged pair a step, asked in
    both orders. A teacher behind an endpoint takes requests, but none of the run's tokens."""
    seed, w = config.seed_data, config.search.num_candidates
    own = seed.endpoint is None
    if name == "seed-ift":
        assert seed.ift is not None
        rows = sum(source.num for source in seed.ift.sources)
        if seed.ift.divide_by == "rule":
            return Work(rows, note="by rule")
        each = lengths.solution * own
        most = rows * seed.max_tokens * own
        return Work(rows, rows, round(rows * each), most, round(2 * rows * each))
    assert seed.eft is not None
    searched = sum(source.num for source in seed.eft.problems)
    labelled = sum(source.num for source in seed.eft.prm800k)
    steps = searched * min(lengths.steps, config.search.max_steps)
    pairs = steps + labelled * lengths.steps
    step, rollouts = config.search.max_step_tokens, w * seed.num_rollouts
    judged = 2 * pairs * own
    tokens = steps * (w * min(lengths.step, step) + rollouts * lengths.solution / 2)
    tokens += judged * min(lengths.judgement, seed.max_tokens)
    limit = steps * (w * step + rollouts * config.evaluation.max_tokens) + judged * seed.max_tokens
    prompt = searched * lengths.problem_prompt + judged * lengths.judge_prompt
    requests = round(steps * (w + rollouts) + 2 * pairs)
    if config.judge.mode == "shared":  # the teacher also writes what the run's judge will write
        written = pairs * (3 if config.judge.critiques else 1)
        requests += round(written)
        tokens += own * written * min(lengths.step, seed.max_tokens)
        limit += own * written * seed.max_tokens
    note = f"at most about {round(pairs)} pairs"
    return Work(
        searched + labelled, requests, round(tokens), round(limit), round(prompt), note=note
    )


def work_of(planned: PlannedStage, config: Config, lengths: Lengths) -> Work:
    """The work of a stage."""
    if planned.kind == "seed":
        return seed_work(config, planned.stage.name, lengths)
    if planned.kind == "data":
        return Work(sum(source.num for source in config.sources().values()))
    if planned.kind == "sft":
        return sft_work(config, lengths)
    if planned.kind == "evaluate":
        return evaluation_work(config, planned.model, lengths)
    source = config.train_source(planned.iteration)
    if planned.kind == "train":
        return dpo_work(config, source, lengths)
    searched = search_work(config, source, source.num, lengths)
    return searched if planned.kind == "search" else Work(source.num, note=searched.note)
