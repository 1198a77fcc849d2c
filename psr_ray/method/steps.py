"""Steps: sampled up to where one ends, merged into candidates, and split out of a complete solution.

Where a step ends. The stop text's leading newlines belong to the step that they end (all of a stop
without any); the rest of it begins the next step and is sampled again. Ids stay as
sampled: a token that holds both the end of one step and more goes with the step that it ends. Blank
text before anything visible belongs to the step that follows. So every character of a model's text
is in exactly one step, and no step is without ids or text.

Two candidates are *the same step* where their texts are, blanks around them left out; how the text was
cut into tokens, and whether EOS or a newline ended it, makes no difference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from psr_ray.method.generation import Completion, EngineTask, GenerationRequest, Usage

STEP_HEADER = re.compile(r"^Step (\d+):", re.MULTILINE)
# Marks around a model's thinking, the opening and the closing one; thinking is never a step.
THINKING = {"<think>": "</think>", "[THINK]": "[/THINK]"}
# Requests for one step whose samples reach a stop text before anything visible; then we give up.
MAX_BLANKS = 4

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Candidate:
    """One distinct next step: its ids, its text, how often it was sampled, whether it ends all.

    ``token_ids`` and ``ended`` are those of its most sampled spelling in tokens."""

    token_ids: tuple[int, ...]
    text: str
    count: int
    ended: bool


def trim_to_step(
    token_ids: Sequence[int], stop: str, decode: Decode
) -> tuple[tuple[int, ...], bool]:
    """The ids up to the end of the first step, and True; all of them, and False, where ``stop`` does
    not occur."""
    text = decode(token_ids)
    found = text.find(stop)
    if found < 0:
        return tuple(token_ids), False
    newlines = len(stop) - len(stop.lstrip("\n"))
    step = text[: found + (newlines or len(stop))]
    low, high = 1, len(token_ids)
    while low < high:  # the fewest ids that hold the full step
        middle = (low + high) // 2
        if decode(token_ids[:middle]).startswith(step):
            high = middle
        else:
            low = middle + 1
    return tuple(token_ids[:low]), True


def sample_steps(
    request: GenerationRequest, decode: Decode, usage: Usage, *, opened: bool = False
) -> EngineTask[list[Completion]]:
    """Samples of a prompt, each cut where its first step ends (``finish`` is then ``stop``).

    A stop text before anything visible ends no step: sampling continues after it, and the step holds
    the ids of both; where the prompt has ``opened`` the step, nothing can follow, and such a sample is
    cut off. Tokens are added to ``usage``, those that were cut away too."""
    assert request.stop is not None
    done: list[Completion] = []
    asked: dict[tuple[int, ...], GenerationRequest] = {(): request}
    for _ in range(MAX_BLANKS):
        answers = yield list(asked.values())
        blank = Counter[tuple[int, ...]]()
        for (opening, part), completions in zip(asked.items(), answers, strict=True):
            usage.add(part, completions)
            for completion in completions:
                ids, found = trim_to_step(completion.token_ids, request.stop, decode)
                ids = opening + ids
                is_blank = found and not decode(ids).replace(request.stop, "").strip()
                if is_blank and not opened:
                    blank[ids] += 1
                elif is_blank:
                    done.append(replace(completion, token_ids=ids, finish="length"))
                else:
                    finish = "stop" if found else completion.finish
                    done.append(replace(completion, token_ids=ids, finish=finish))
        asked = {
            ids: replace(
                request,
                prompt_ids=request.prompt_ids + ids,
                num_samples=num,
                max_tokens=request.max_tokens - len(ids),
            )
            for ids, num in blank.items()
            if request.max_tokens > len(ids)
        }
        if not asked:
            break
    return done


def merge(
    completions: Sequence[Completion], decode: Decode, opening: tuple[int, ...] = ()
) -> list[Candidate]:
    """Distinct candidates, most sampled first. What was cut off, holds no text or is thinking is none.
    The ids in ``opening``, which stood before the completions, are part of a candidate's text alone."""
    by_text: dict[str, Counter[tuple[tuple[int, ...], bool]]] = {}
    for completion in completions:
        sampled = decode(completion.token_ids).strip()
        is_step = sampled and not sampled.startswith(tuple(THINKING))
        if is_step and completion.finish in ("eos", "stop"):
            text = decode(opening + completion.token_ids).strip()
            spelling = (completion.token_ids, completion.finish == "eos")
            by_text.setdefault(text, Counter())[spelling] += 1
    candidates = []
    for text, spellings in by_text.items():
        [((ids, ended), _)] = spellings.most_common(1)
        candidates.append(Candidate(ids, text, spellings.total(), ended))
    return sorted(candidates, key=lambda candidate: -candidate.count)


def model_ends(completions: Sequence[Completion], decode: Decode) -> bool:
    """Whether at least half of the samples end the solution without another step: EOS and no text."""
    ended = (c for c in completions if c.finish == "eos" and not decode(c.token_ids).strip())
    return 2 * sum(1 for _ in ended) >= len(completions) > 0


def split_steps(solution: str) -> list[str]:
    """The steps of a solution, each with its ``Step n:`` header; text before the first is dropped.

    Empty where no step header occurs.
    """
    starts = [match.start() for match in STEP_HEADER.finditer(solution)]
    ends = [*starts, len(solution)][1:]
    return [solution[a:b].strip() for a, b in zip(starts, ends, strict=True)]
