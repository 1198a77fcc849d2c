"""docs/results.md and its figures, made from a comparison's JSON alone: never by hand."""

from __future__ import annotations

from itertools import pairwise, zip_longest
from pathlib import Path

from psr_ray.measures.intervals import t_quantile
from psr_ray.report.figures import new_figure, to_svg
from psr_ray.report.paper import markdown_templates
from psr_ray.storage.files import Json, write_text

TEMPLATES = Path(__file__).parent.parent / "templates"


def percent(value: float | None, error: float | None = None, signed: bool = False) -> str:
    """``54.7 ± 1.6`` in points; a dash where not measured."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return text if error is None else f"{text} ± {100 * error:.1f}"


def interval(low_high: list[float] | None) -> str:
    """``[+1.2, +3.4]`` in points."""
    return "–" if low_high is None else f"[{100 * low_high[0]:+.1f}, {100 * low_high[1]:+.1f}]"


def decimal(value: float | None, places: int = 2, signed: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.{places}f}" if signed else f"{value:.{places}f}"


def is_above(low_high: list[float], many: bool) -> bool | None:
    """Whether an interval lies entirely above zero; None where few seeds make it too wide to tell."""
    low, high = low_high
    return None if low <= 0 < high and not many else low > 0


def targets(evidence: Json) -> list[tuple[str, bool | None, str]]:
    """Targets, whether each is met (None: not measured yet), and the figures."""
    methods, reference = evidence["methods"], evidence["reference"]
    found: list[tuple[str, bool | None, str]] = []
    own = methods.get(reference)
    if own is None:
        return found
    rise, error = own["rise_mean"], own["rise_se"]
    many = len(own["seeds"]) >= 5
    found.append(
        (
            "rises by at least 5 points, and by more than 4 standard errors, over at least 5 seeds",
            None if not many or error is None else rise >= 0.05 and rise > 4 * error,
            f"{percent(rise, error, signed=True)} points, {len(own['seeds'])} seeds",
        )
    )
    path = [figures["accuracy"] for figures in own["models"].values()]
    found.append(
        (
            "rises at every iteration, in the mean",
            all(b > a for a, b in pairwise(path)),
            " → ".join(percent(value) for value in path),
        )
    )
    oracle = methods.get("oracle")
    if oracle is not None:
        share = rise / oracle["rise_mean"]
        text = f"{share:.0%} ({percent(rise)} of {percent(oracle['rise_mean'])} points)"
        found.append(("reaches 80 % of the oracle's rise", share >= 0.8, text))
    ci = evidence.get(f"{reference}_minus_outcome_ci95")
    if ci is not None:
        tokens = methods["outcome"]["tokens_mean"] / own["tokens_mean"]
        text = (
            f"{percent(evidence[f'{reference}_minus_outcome'], signed=True)} points {interval(ci)}; "
            f"`outcome` generated {tokens:.2f} times the tokens"
        )
        enough = evidence[f"{reference}_minus_outcome_num_seeds"] >= 5
        found.append(("beats `outcome` (95 % interval)", is_above(ci, enough), text))
    chance = methods.get("random-pairs")
    if chance is not None:
        mean, spread = chance["rise_mean"], chance["rise_se"]
        found.append(
            (
                "`random-pairs` stays within 2 standard errors of M1",
                None if spread is None else abs(mean) <= 2 * spread,
                f"{percent(mean, spread, signed=True)} points",
            )
        )
    for name, figures in (evidence.get("test_time") or {}).items():
        ci = figures["search_minus_greedy_ci95"]
        text = f"{percent(figures['search_minus_greedy'], signed=True)} points {interval(ci)}"
        target = f"step search at test time beats greedy ({name})"
        found.append((target, is_above(ci, many), text))
    return found


def one_first_model(evidence: Json) -> bool:
    """Whether the first models of a seed do equally well by all methods: they then are the same."""
    found: dict[int, set[tuple[float, float | None]]] = {}
    for method in evidence["methods"].values():
        for seed in method["seeds"]:
            first = next(iter(seed["accuracy"]))
            found.setdefault(seed["seed"], set()).add(
                (seed["accuracy"][first], seed["hard"][first])
            )
    return all(len(accuracies) == 1 for accuracies in found.values())


def about_seeds(evidence: Json) -> str:
    """A note on the page's intervals: how the number of seeds limits them."""
    names = list(evidence["methods"])
    single = [f"`{name}`" for name in names if len(evidence["methods"][name]["seeds"]) == 1]
    reference = evidence["reference"]
    for name in names:
        if evidence.get(f"{reference}_minus_{name.replace('-', '_')}_num_seeds") == 1:
            single.append(f"`{reference}` minus `{name}`")
    several = [len(m["seeds"]) for m in evidence["methods"].values() if len(m["seeds"]) > 1]
    texts = []
    if several:
        reach = t_quantile(min(several) - 1)
        texts.append(
            f"With {min(several)} seeds an interval reaches at least {reach:.1f} standard errors over "
            "seeds to each side."
        )
    if single:
        texts.append(
            f"With one seed ({', '.join(single)}) it is over problems alone, and says "
            "nothing of other seeds."
        )
    return "\n".join(texts)


def model_columns(evidence: Json) -> list[str]:
    """Names of the models side by side, first to last: `M1`, or `M5 / M13` where methods of other
    numbers of rounds have others."""
    named = [list(method["models"]) for method in evidence["methods"].values()]
    columns = zip_longest(*named)
    return [" / ".join(dict.fromkeys(name for name in names if name)) for names in columns]


def render(evidence: Json, figures: dict[str, str]) -> str:
    """The page as Markdown."""
    environment = markdown_templates(TEMPLATES)
    environment.filters |= {"percent": percent, "interval": interval, "decimal": decimal}
    return environment.get_template("results.md.jinja").render(
        evidence=evidence,
        methods=evidence["methods"],
        reference=evidence["reference"],
        models=model_columns(evidence),
        targets=targets(evidence),
        about_seeds=about_seeds(evidence),
        one_first_model=one_first_model(evidence),
        figures=figures,
    )


def write_results(evidence: Json, page: Path, *, check: bool = False) -> list[Path]:
    """Write the page and its figures; with ``check`` write nothing. Returns the files that differed
    from what the evidence gives."""
    folder = page.with_suffix("")
    contents: dict[Path, str] = {
        folder / "accuracy.svg": accuracy_figure(evidence),
        folder / "health.svg": health_figure(evidence),
    }
    names = {path.stem: f"{folder.name}/{path.name}" for path in contents}
    contents[page] = render(evidence, names)
    changed = [
        path for path, text in contents.items() if not path.is_file() or path.read_text() != text
    ]
    if not check:
        for path in changed:
            write_text(path, contents[path])
    return changed


def accuracy_figure(evidence: Json) -> str:
    """Accuracy by model for every method, on both held-out sets; bars are standard errors."""
    figure, axes = new_figure(2, width=4.4, height=3.6)
    columns = model_columns(evidence)
    for axis, key, title in (
        (axes[0], "accuracy", "held-out problems"),
        (axes[1], "hard", "harder held-out problems"),
    ):
        for name, method in evidence["methods"].items():
            models = list(method["models"])
            known = [
                (x, method["models"][m]) for x, m in enumerate(models) if key in method["models"][m]
            ]
            axis.errorbar(
                [x for x, _ in known],
                [100 * m[key] for _, m in known],
                yerr=[100 * (m[f"{key}_se"] or 0) for _, m in known],
                marker="o",
                markersize=4,
                capsize=3,
                linewidth=2.4 if name == evidence["reference"] else 1.2,
                label=name,
            )
        axis.set_xticks(range(len(columns)), columns)
        axis.set(title=title, ylabel="greedy accuracy, %")
    axes[1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return to_svg(figure)


def health_figure(evidence: Json) -> str:
    """Health of every method by model: judge, agreement with M1, self-reward against truth."""
    figure, axes = new_figure(4, width=3.4, height=3.6)
    panels = (
        ("judge_accuracy_on_policy", "judge right on own steps, %", 100),
        ("tau_first", "Kendall's τ of rankings to M1's", 1),
        ("self_reward", "self-reward (–), true reward (···), %", 100),
        ("pass_at_8", "pass@8, %", 100),
    )
    columns = model_columns(evidence)
    for axis, (key, title, scale) in zip(axes, panels, strict=True):
        for name, method in evidence["methods"].items():
            color = None
            for shown, line in ((key, "-"), ("true_reward", ":")):
                if line == ":" and key != "self_reward":
                    continue
                points = [
                    (x, scale * model["health"][shown])
                    for x, model in enumerate(method["models"].values())
                    if model["health"].get(shown) is not None
                ]
                [drawn] = axis.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    line,
                    marker="o",
                    markersize=3,
                    color=color,
                    label=name if line == "-" else None,
                )
                color = drawn.get_color()
        axis.set_xticks(range(len(columns)), columns)
        axis.set_title(title, fontsize=9)
    axes[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return to_svg(figure)
