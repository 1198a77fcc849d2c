"""Whether a model's steps, answers and verdicts are usable, in plain words: `psr-ray doctor --try`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psr_ray.config import Config
from psr_ray.measures.health import JUDGE_ACCURACY
from psr_ray.measures.searches import figures_of
from psr_ray.method.steps import STEP_HEADER
from psr_ray.storage.files import Row

# Probability by chance of as many pairs that keep their winner, above which they show nothing.
LIKELY_CHANCE = 0.05
# Pairs that suffice to say so: ten pairs are twenty comparisons.
LEAST_PAIRS = 10
# Probability of both letters together, where a verdict is read.
LEAST_MASS = 0.1


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``remedy`` names the setting to change, empty where all is well."""

    what: str
    remedy: str = ""


def share(part: float, whole: float) -> str:
    return f"{part:g} of {whole:g} ({part / whole:.0%})"


def trial_findings(searches: Sequence[Row], config: Config) -> list[Finding]:
    """What a few searches show. With so few problems these are hints, not measurements."""
    errors = [row["error"] for row in searches if row["error"]]
    if len(errors) == len(searches):
        return [
            Finding(f"searches: none came to an end: {errors[0]}", "see docs/troubleshooting.md")
        ]
    rows = [row for row in searches if not row["error"]]
    found = [step_finding(rows, config), end_finding(rows, config), box_finding(rows)]
    return [*found, *verdict_findings(rows, config)]


def step_finding(rows: Sequence[Row], config: Config) -> Finding:
    """Samples that ended as one step."""
    steps = [step for row in rows for step in row["steps"]]
    texts = [c["text"] for step in steps for c in step["candidates"] for _ in range(c["count"])]
    whole = sum(len(STEP_HEADER.findall(text)) < 2 for text in texts)
    # a search whose round gave no candidate has no step for it
    num = len(texts) + sum(step["num_truncated"] for step in steps)
    cut = Counter(row["end"] for row in rows)
    num += config.search.num_candidates * (cut["step_too_long"] + cut["no_step"])
    if not num:
        return Finding("steps: none could be sampled and judged", "see ends")
    if config.method.unit == "solution":
        return Finding(f"solutions: {share(len(texts), num)} samples are complete")
    if whole >= 0.7 * num:
        return Finding(f"steps: {share(whole, num)} samples are one complete step")
    return Finding(
        f"steps: only {share(whole, num)} samples are one complete step",
        f"set prompts.step_stop (now {config.prompts.step_stop!r}; '\\n\\n' takes paragraphs as steps) "
        f"or raise search.max_step_tokens (now {config.search.max_step_tokens})",
    )


def end_finding(rows: Sequence[Row], config: Config) -> Finding:
    """How searches ended."""
    ends = Counter(row["end"] for row in rows)
    said = f"ends: {', '.join(f'{num} {end}' for end, num in ends.most_common())}"
    remedies = {
        "max_steps": f"raise search.max_steps (now {config.search.max_steps})",
        "max_rollbacks": "the judge ties too often: see order, or raise search.num_candidates",
        "max_length": f"raise model.max_length (now {config.model.max_length}), or lower "
        f"judge.max_tokens (now {config.judge.max_tokens})",
        "step_too_long": "see steps",
        "no_step": "the model ends at once: see prompts.templates and prompts.chat_template",
    }
    worst = [end for end, num in ends.most_common() if end in remedies and 2 * num >= len(rows)]
    return Finding(said, remedies[worst[0]] if worst else "")


def box_finding(rows: Sequence[Row]) -> Finding:
    """Solutions that ended, with their answer in a box."""
    ended = [row for row in rows if row["end"] == "finished"]
    if not ended:
        return Finding("answers: no search came to the end of a solution", "see ends")
    boxed = sum(row["predicted"] is not None for row in ended)
    if 3 * boxed >= 2 * len(ended):
        return Finding(f"answers: {share(boxed, len(ended))} solutions have a box")
    return Finding(
        f"answers: only {share(boxed, len(ended))} solutions have a box, and others count as wrong",
        "say \\boxed{} in prompts.system.solve or your own prompts.templates, or fine-tune first",
    )


def verdict_findings(rows: Sequence[Row], config: Config) -> list[Finding]:
    """Verdicts that can be read, and that do not change with the order."""
    figures = figures_of(rows).summary()
    if not figures["num_verdicts"]:
        return []
    unparsable, flips = figures["unparsable_share"], figures["order_flip_share"]
    said = f"verdicts: {1 - unparsable:.0%} of {figures['num_verdicts']} can be read"
    remedy = f"raise judge.max_tokens (now {config.judge.max_tokens}), or set judge.mode verdict"
    found = [Finding(said, remedy if unparsable > 0.2 else "")]
    if not figures["num_compared_pairs"] and unparsable <= 0.2:
        found.append(Finding("order: no pair has a letter in both orders", "see docs/judging.md"))
    if (num := figures["num_compared_pairs"]) and flips is not None:  # pairs with two letters
        found.append(order_finding(round((1 - flips) * num), num, figures))
    if (mass := figures["verdict_mass"]) is not None and mass < LEAST_MASS:
        said = f"letters: A and B have {mass:.1%} of the probability where the verdict stands"
        found.append(Finding(said, "the prompt does not reach the model: see prompts.templates"))
    if figures["num_cut_texts"]:
        said = f"judge's texts: {figures['num_cut_texts']} were cut off"
        found.append(Finding(said, f"raise judge.max_tokens (now {config.judge.max_tokens})"))
    return found


def order_finding(num_same: int, num: int, figures: Mapping[str, Any]) -> Finding:
    """Whether verdicts follow the candidates: pairs whose two orders name the same one. A judge that
    follows chance names it in half of them, one that follows the position in none."""
    chance = sum(math.comb(num, k) for k in range(num_same, num + 1)) / 2**num
    said = (
        f"order: in {num_same} of {num} pairs both orders name the same step "
        f"({chance:.0%} likely by chance); {figures['tie_share']:.0%} of steps give no preference"
    )
    accuracy = figures["judge_accuracy_on_policy"]
    if accuracy is not None:  # equally good steps flip, too: what counts is who is right
        said += (
            f"; {accuracy:.0%} of {figures['num_gradable_verdicts']} gradable verdicts are right"
        )
    if chance <= LIKELY_CHANCE or (accuracy is not None and accuracy >= JUDGE_ACCURACY):
        return Finding(said)
    if num < LEAST_PAIRS:
        return Finding(said + "; too few pairs to say more")
    return Finding(
        said,
        "these verdicts follow the place or chance, or most of these steps are equally good: look at "
        "them above; take a larger model, fine-tune, or try another judge.mode (docs/judging.md)",
    )
