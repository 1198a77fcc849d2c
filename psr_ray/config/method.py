"""Settings of the training signal: what is ranked by whom, and what the judge itself learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from psr_ray.config.base import Frozen, NonNegative, Positive, Share, own_or


class MethodConfig(Frozen):
    """The training signal. The defaults are the paper's method; the others are baselines and
    controls, on the same code path (docs/design.md, "Methods")."""

    unit: Literal["step", "solution"] = "step"
    """The unit that is sampled, ranked and paired: the next step, or a complete solution."""
    ranking: Annotated[str, own_or("pairwise", "points", "random", "longest", "oracle")] = (
        "pairwise"
    )
    """How candidates are scored: by the model as judge of pairs (the paper's way); the model
    giving 0 to 5 points (Self-Rewarding LM, arXiv 2401.10020); chance; length in tokens; the truth,
    where problems are gradable; `module:name`, a class of your own (docs/extending.md)."""
    judge: Literal["policy", "first", "average"] = "policy"
    """Which model judges: the one that searches, M1 in every iteration, or the mean of the weights of M1
    to the one that searches."""
    objective: Annotated[str, own_or("dpo", "nll")] = "dpo"
    """Loss on the pairs: DPO, or the chosen side's NLL alone (fine-tuning on what was chosen);
    `module:name`, a function of your own (docs/extending.md)."""

    @property
    def without_judge(self) -> bool:
        """Whether no model judges."""
        return self.ranking in ("random", "longest", "oracle")

    @property
    def other_judges(self) -> bool:
        """Whether another model than the policy judges, and is needed beside it."""
        return self.judge != "policy" and not self.without_judge

    @property
    def judge_role(self) -> Literal["policy", "judge"]:
        """Which model answers a judge's requests: ``judge`` is the one beside the policy."""
        return "policy" if self.judge == "policy" else "judge"


class RefreshConfig(Frozen):
    """Pairs of the run's own steps, judged again and labelled without anyone's help, that each round
    teaches the judge beside the older judged rows (docs/judging.md, "A judge that learns")."""

    pairs_per_problem: Annotated[int, Field(ge=0)] = 2
    """Steps of a search whose best and worst candidate make a pair to judge again; 0: none, so that
    older rows alone are repeated."""
    num_judgements: Positive = 4
    """Judgements sampled of each pair, in each order. Of those that name the better step the most
    frequent text is learned."""
    temperature: NonNegative = 0.7
    """Their sampling temperature."""
    min_agreement: Share = 0.8
    """Judgements label a pair where so large a share of them, of both orders together, names one step
    (by their probabilities, with soft verdicts)."""
    num_rollouts: Annotated[int, Field(ge=0)] = 8
    """Solutions sampled from each step of a pair: its value is the share that ends with the answer of
    most of them. 0: judgements alone label."""
    min_gap: Share = 0.5
    """Rollouts label a pair whose values differ so much. Where judgements name the other step, the pair
    is left out."""
    min_majority: Share = 0.5
    """Share of a pair's rollouts that must have the answer of most of them."""
    labels: Literal["own", "truth"] = "own"
    """`truth`: a control that labels pairs of which exactly one step is right, where problems are
    gradable."""
    per_batch: Positive = 8
    """Judged rows added to each batch of step-DPO, with an SFT loss."""
    replay: Share = 0.5
    """Share of them that are rows of `data.eft`; all of them in a round without new ones."""
