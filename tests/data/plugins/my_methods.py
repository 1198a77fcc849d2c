"""A user's own module, as in docs/extending.md: a judge, a ranking, losses, a source of problems."""

import random

import torch.nn.functional as F

from psr_ray.method.judge import parse_verdict
from psr_ray.method.judges import ExplainJudge
from psr_ray.method.ranking import Ranked
from psr_ray.method.verdicts import Verdict


class CautiousJudge(ExplainJudge):
    """Explains, as the paper's judge does, but trusts no verdict given in fewer than 8 tokens."""

    def read(self, completion):
        verdict = parse_verdict(self.prompts.decode(completion.token_ids))
        return verdict if len(completion.token_ids) >= 8 else Verdict(None, verdict.text)


class FirstNumber:
    """Ranks steps by the first number in them: no sense in it, but no model either."""

    def __init__(self, prompts, config):
        self.prompts = prompts

    def rank(self, state, candidates):
        yield from ()  # no requests to the engine
        digits = ["".join(c for c in candidate.text if c.isdigit()) for candidate in candidates]
        return Ranked([float(text[:3] or 0) for text in digits])


def ipo_loss(logps, settings):
    """IPO (arXiv 2310.12036): the squared distance of the log-ratios' difference from 1 / (2 beta)."""
    return (logps.margin_B(settings) / settings.beta - 1 / (2 * settings.beta)) ** 2


def hinge_loss(logps, settings):
    """SLiC's hinge (arXiv 2305.10425) on DPO's margin."""
    return F.relu(1 - logps.margin_B(settings))


def sums(source, seed):
    """Sums of two numbers, as records like those of a JSONL file."""
    draw = random.Random(f"sums/{seed}")
    for number in range(source.num):
        a, b = draw.randint(1, 99), draw.randint(1, 99)
        solution = f"Step 1: {a}+{b}={a + b} \\boxed{{{a + b}}}"
        yield {"id": f"sum-{number}", "problem": f"What is {a} plus {b}?", "answer": str(a + b),
               "solution": solution}  # fmt: skip
