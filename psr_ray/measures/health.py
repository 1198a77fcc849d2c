"""Alarms: figures that have crossed a bound, in plain words. Self-reward goes wrong silently.

The bounds are set wide: an alarm means "look before you continue", silence does not mean all is well.
docs/design.md has the reasons; tests fire each alarm on a run broken on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, TypedDict

from psr_ray.storage.files import Json

Kind = Literal[
    "judge collapse",
    "length bias",
    "step merging",
    "likelihood displacement",
    "format drift",
    "accuracy loss",
    "reward without progress",
    "diversity loss",
    "wrong weights",
]


class Alarm(TypedDict):
    """One bound crossed by one model."""

    kind: Kind
    model: str
    message: str


# Fewer observations than this are not enough for an alarm.
LEAST = 30
# Share of verdicts for A: an honest judge stays near one half (ties that say A raise it).
FIRST_SHARE = (0.1, 0.9)
# Share of pairs whose two orders name the same position. A coin gives 0.5.
FLIPS = 0.6
UNPARSABLE = 0.1
# Share of judged steps that give no preference.
TIES = 0.9
# Share of right verdicts where exactly one step is right. A coin gives 0.5.
JUDGE_ACCURACY = 0.6
# Win share of the longer candidate, and how far it may pass the share that the truth gives it.
LONGER_WINS, LONGER_BEYOND_TRUTH = 0.7, 0.2
# Steps per solution and tokens per step against M1 (arXiv 2503.03746, Tables 7 and 8, show both).
FEWER_STEPS, LONGER_STEPS = 0.8, 1.2
# Change of the chosen steps' log-probability by training, mean over its pairs, in nats: a step e times
# less likely.
CHOSEN_LOGP = -1.0
# Rise of the share of solutions without a boxed answer, or cut off, against M1.
DRIFT = 0.1
# Fall of greedy accuracy against M(k-1), in standard errors of the difference.
ACCURACY_FALL = 2
# Rise of the self-reward against M(k-1) while greedy accuracy falls by that much.
REWARD_RISE = 0.03
# Fall of pass@8 against M1.
PASS_FALL = 0.1


def alarms_of(
    models: list[Json], searches: Mapping[str, Json], trainings: Mapping[str, Json]
) -> list[Alarm]:
    """The alarms of a run, model by model; M0 raises none. ``searches`` are the figures of the searches
    that the models learn from, by the model that searched: they raise the judge's alarms before anything
    is trained, each kind once a model. ``trainings`` are those by which models were made, evaluated or
    not."""
    found: list[Alarm] = []
    trained = [entry for entry in models if entry["name"] != "M0"]
    for index, entry in enumerate(trained):
        before = trained[index - 1] if index else None
        alarms = [
            *judge_alarms(entry),
            *drift_alarms(entry, trained[0], before),
            *weights_alarms(entry.get("doubt")),
        ]
        found += [
            {"kind": kind, "model": entry["name"], "message": message} for kind, message in alarms
        ]
    found += [
        {"kind": kind, "model": model, "message": message}
        for model, training in trainings.items()
        for kind, message in training_alarms(training)
    ]
    raised = {(alarm["kind"], alarm["model"]) for alarm in found}
    for model, figures in searches.items():
        asked = figures.get("asked_share")
        where = "its search" + (
            "" if asked in (None, 1) else f" ({asked:.0%} of comparisons asked)"
        )
        for kind, message in search_alarms(figures):
            if (kind, model) not in raised:
                found.append({"kind": kind, "model": model, "message": f"in {where}, {message}"})
    return sorted(found, key=lambda alarm: int(alarm["model"].removeprefix("M")))


Alarms = Iterator[tuple[Kind, str]]


def search_alarms(manifest: Json) -> Alarms:
    """Alarms of a search to learn from, by its stage's manifest."""
    yield from judge_alarms(manifest)
    yield from weights_alarms((manifest.get("engines") or {}).get("doubt"))


def weights_alarms(doubt: str | None) -> Alarms:
    """The alarm of an engine that does not answer as the trainer does."""
    if doubt is not None:
        yield (
            "wrong weights",
            f"engine and trainer disagree about the model: {doubt}; its figures are not to be trusted "
            "(`engine.enforce_eager: true` and `model.dtype` are the first things to try)",
        )


def judge_alarms(entry: Json) -> Alarms:
    """Alarms of the judge on the model's own steps, of an evaluation or of a search to learn from."""
    share, flips = entry.get("first_share"), entry.get("order_flip_share")
    pairs, accuracy = entry.get("num_compared_pairs") or 0, entry.get("judge_accuracy_on_policy")
    if share is not None and not FIRST_SHARE[0] <= share <= FIRST_SHARE[1]:
        letter = "A" if share > 0.5 else "B"
        yield (
            "judge collapse",
            f"the judge says {letter} in {max(share, 1 - share):.0%} of verdicts",
        )
    elif flips is not None and flips > FLIPS:
        yield "judge collapse", f"{flips:.0%} of pairs change their winner with their order"
    elif flips is not None and pairs >= LEAST and flips > 0.5 - pairs**-0.5 and accuracy is None:
        yield (
            "judge collapse",
            f"{flips:.0%} of {pairs} pairs change their winner with their order, as by chance (within "
            "two standard errors), or as where most steps are equally good",
        )
    ties, steps = entry.get("tie_share"), entry.get("num_judged_steps") or 0
    if ties is not None and steps >= LEAST and ties > TIES:
        yield "judge collapse", f"{ties:.0%} of {steps} judged steps give no preference"
    unparsable = entry.get("unparsable_share")
    if unparsable is not None and unparsable > UNPARSABLE:
        yield "judge collapse", f"{unparsable:.0%} of verdicts cannot be parsed"
    num = entry.get("num_gradable_verdicts") or 0
    if accuracy is not None and num >= LEAST and accuracy < JUDGE_ACCURACY:
        yield "judge collapse", f"only {accuracy:.0%} of gradable verdicts on own steps are right"
    longer, by_truth = entry.get("longer_win_share"), entry.get("longer_true_share")
    differ = sum(counts["pairs"] for counts in (entry.get("longer_wins") or {}).values())
    if longer is not None and differ >= LEAST and longer > LONGER_WINS:
        if by_truth is None:
            yield "length bias", f"the longer of two steps wins {longer:.0%} of {differ} pairs"
        elif longer - by_truth > LONGER_BEYOND_TRUTH:
            yield (
                "length bias",
                f"the longer of two steps wins {longer:.0%} of {differ} pairs; "
                f"by the truth it would win {by_truth:.0%}",
            )


def training_alarms(training: Json) -> Alarms:
    """Alarms of a training's last figures."""
    change = training.get("chosen_logp_change")
    if change is not None and change < CHOSEN_LOGP:
        yield (
            "likelihood displacement",
            f"training made the chosen steps less likely ({change:+.1f} nats a step, mean of all)",
        )


def drift_alarms(entry: Json, first: Json, before: Json | None) -> Alarms:
    """Alarms of the solver after training."""
    if before is None:
        return
    steps, tokens = (
        ratio(entry, first, "steps_per_solution"),
        ratio(entry, first, "tokens_per_step"),
    )
    if steps is not None and tokens is not None and steps < FEWER_STEPS and tokens > LONGER_STEPS:
        yield (
            "step merging",
            f"{1 - steps:.0%} fewer steps a solution than M1, {tokens - 1:.0%} more tokens a step",
        )
    for key, what in (("unboxed_share", "have no boxed answer"), ("cut_off_share", "are cut off")):
        now, then = entry.get(key), first.get(key)
        if now is not None and then is not None and now > then + DRIFT:
            yield "format drift", f"{now:.0%} of solutions {what} (M1: {then:.0%})"
    rise = difference((entry.get("probes") or {}), (before.get("probes") or {}), "self_reward", 0.5)
    fall = difference(entry, before, "accuracy")
    error = accuracy_error(entry, before)
    if fall is not None and fall < -ACCURACY_FALL * error:
        if rise is not None and rise > REWARD_RISE:
            yield (
                "reward without progress",
                f"the model prefers its own steps more than before ({100 * rise:+.0f} points), but "
                f"its accuracy fell ({100 * fall:+.1f} points)",
            )
        else:
            yield (
                "accuracy loss",
                f"accuracy fell by {-100 * fall:.1f} points against {before['name']} (standard error "
                f"{100 * error:.1f}): dpo.lr is the first thing to lower",
            )
    fall = difference(entry, first, "pass_at_8")
    if fall is not None and fall < -PASS_FALL:
        yield "diversity loss", f"pass@8 fell by {-100 * fall:.0f} points against M1"


def accuracy_error(entry: Json, other: Json) -> float:
    """Standard error of the difference of two models' accuracies, as of different problems."""
    return float(((entry["accuracy_se"] or 0) ** 2 + (other["accuracy_se"] or 0) ** 2) ** 0.5)


def ratio(entry: Json, other: Json, key: str) -> float | None:
    now, then = entry.get(key), other.get(key)
    return now / then if now is not None and then else None


def difference(entry: Json, other: Json, key: str, default: float | None = None) -> float | None:
    now, then = entry.get(key), other.get(key, default)
    return now - then if now is not None and then is not None else None
