"""A scripted engine for unit tests of the search's logic alone: texts in, no model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from psr_ray.config import PromptConfig
from psr_ray.method.generation import Completion, EngineTask, GenerationRequest
from psr_ray.method.prompts import PromptBuilder

EOS = 0


class CharacterTokenizer:
    """One token a character; id 0 is EOS."""

    chat_template = None
    name_or_path = "characters"
    eos_token_id = EOS
    pad_token_id = EOS
    all_special_tokens = ()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(chr(i) for i in ids if i != EOS)


def character_prompts(step_stop: str = "\n") -> PromptBuilder:
    settings = PromptConfig(templates="compact", chat_template=False, step_stop=step_stop)
    return PromptBuilder(CharacterTokenizer(), settings)


def judgement(text: str) -> Completion:
    """A judge's ``text``, sure of the letter that it names last: its logprobs are 0 and -inf."""
    done = completion(text + "$")
    place = max(text.rfind("A"), text.rfind("B"))
    if place < 0:
        return done
    sure = (0.0, -math.inf) if text[place] == "A" else (-math.inf, 0.0)
    return replace(done, choice_logprobs=sure, choice_place=place)


def completion(text: str) -> Completion:
    """``text`` as sampled; a trailing ``$`` stands for EOS, a missing newline for a cut-off."""
    if text.endswith("$"):
        return Completion((*map(ord, text[:-1]), EOS), "eos")
    return Completion(tuple(map(ord, text)), "stop" if text.endswith("\n") else "length")


Sampler = Callable[[str, int], list[str]]
Judge = Callable[..., str]


def converse(task: EngineTask, answer: Callable[[GenerationRequest], list[Completion]]):
    """Run a coroutine; ``answer`` gives a request's completions. Returns its result and all requests."""
    asked: list[GenerationRequest] = []
    answers = None
    while True:
        try:
            requests = task.send(answers)
        except StopIteration as stop:
            return stop.value, asked
        asked += requests
        answers = [answer(request) for request in requests]


def drive(task: EngineTask, sample: Sampler, judge: Judge, prompts: PromptBuilder):
    """Run a coroutine: ``sample(prompt, n)`` gives steps, ``judge(a, b)`` (or, of a whole
    solution, ``judge(prompt)``) a judgement."""

    def answer(request: GenerationRequest) -> list[Completion]:
        prompt = prompts.decode(request.prompt_ids)
        if prompt.endswith("Judge:"):
            lines = prompt.splitlines()
            a = next(line[3:] for line in reversed(lines) if line.startswith("A: "))
            b = next(line[3:] for line in reversed(lines) if line.startswith("B: "))
            return [judgement(judge(a, b))]
        if prompt.endswith("Work:"):
            return [completion(judge(prompt) + "$")]
        return [completion(text) for text in sample(prompt, request.num_samples)]

    return converse(task, answer)


def prefers(*order):
    """A judge that prefers what stands earlier in ``order``; A where both or neither stand in it."""

    def judge(a, b):
        rank = {text: i for i, text in enumerate(order)}
        return f"so [[{'B' if rank.get(b, 99) < rank.get(a, 99) else 'A'}]]"

    return judge
