"""docs/results.md and its figures, made from a comparison's JSON alone: never by hand."""

from __future__ import annotations

from functools import partial
from itertools import zip_longest
from pathlib import Path

from psr_ray.compare.expectations import judged
from psr_ray.compare.wording import decimal, interval, percent, with_interval
from psr_ray.measures.intervals import t_quantile
from psr_ray.report.figures import new_figure, to_svg
from psr_ray.report.paper import markdown_templates
from psr_ray.storage.files import Json, write_text
from psr_ray.storage.locations import EMBEDDED_MODELS

TEMPLATES = Path(__file__).parent.parent / "templates"


def has_hard(evidence: Json) -> bool:
    """Whether a harder set of problems was solved, too."""
    return any("hard_rise_mean" in method for method in evidence["methods"].values())


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
    single = [f"`{name}`" for name, m in evidence["methods"].items() if len(m["seeds"]) == 1]
    single += [
        f"`{one}` minus `{other}`"
        for key, (one, other) in evidence["differences"].items()
        if evidence[f"{key}_num_seeds"] == 1
    ]
    several = [len(m["seeds"]) for m in evidence["methods"].values() if len(m["seeds"]) > 1]
    texts = []
    if several:
        reach = t_quantile(min(several) - 1)
        texts.append(
            f"With {min(several)} seeds an interval reaches at least {reach:.1f} standard errors over "
            "seeds to each side."
        )
    if single and not several:
        texts.append(
            "With one seed an interval is over problems alone, and says nothing of other seeds."
        )
    elif single:
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
        expectations=judged(evidence),
        with_interval=partial(with_interval, evidence),
        records=evidence["records"],
        about_seeds=about_seeds(evidence),
        has_hard=has_hard(evidence),
        has_steps_right=any(
            model["health"]["steps_right_share"] is not None
            for method in evidence["methods"].values()
            for model in method["models"].values()
        ),
        is_embedded=evidence["base"] in (None, *EMBEDDED_MODELS),
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
    """Accuracy by model for every method, on each held-out set; bars are standard errors."""
    panels = [("accuracy", "held-out problems"), ("hard", "harder held-out problems")]
    panels = panels if has_hard(evidence) else panels[:1]
    figure, axes = new_figure(len(panels), width=4.4, height=3.6)
    columns = model_columns(evidence)
    for axis, (key, title) in zip(axes, panels, strict=True):
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
    axes[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
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
