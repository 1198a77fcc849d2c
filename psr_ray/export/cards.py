"""README.md of a model and of datasets, as the Hugging Face Hub reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from psr_ray.config import Config, MethodConfig
from psr_ray.data.benchmarks import BENCHMARKS
from psr_ray.report.display import alarm_lines, share
from psr_ray.report.html import headline
from psr_ray.report.paper import markdown, markdown_templates, views
from psr_ray.storage.files import Json, write_text
from psr_ray.storage.locations import is_hub_id

TEMPLATES = Path(__file__).parent.parent / "templates" / "cards"
PAPER = "2503.03746"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# Settings that name places on the user's machines, or belong to no model.
PRIVATE = ("runs_dir", "shared_dir", "seed_data", "telemetry", "resources_timeout_s")


def public_settings(config: Config) -> Json:
    """The config without the user's machines: paths become file names."""

    def public(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: public(item) for key, item in value.items()}
        if isinstance(value, list):
            return [public(item) for item in value]
        if isinstance(value, str) and (value.startswith(("/", "~", ".")) or "://" in value):
            return value.rstrip("/").rsplit("/", 1)[-1]
        return value

    values = config.model_dump(mode="json", exclude=set(PRIVATE))
    return {key: public(value) for key, value in values.items()}


def base_model(config: Config) -> tuple[str, str | None]:
    """Name of M0, and its id on the Hub where the config has one."""
    base = config.model.base
    return base.rstrip("/").rsplit("/", 1)[-1], base if is_hub_id(base) else None


def write_model_card(
    folder: Path, summary: Json, config: Config, name: str, license_: str | None
) -> None:
    """The model's card: method, data, figures, alarms, config, versions, and how to ask it."""
    from huggingface_hub import EvalResult, ModelCardData

    [entry] = [entry for entry in summary["models"] if entry["name"] == name]
    base, base_id = base_model(config)
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=BENCHMARKS[benchmark].dataset if benchmark in BENCHMARKS else benchmark,
            dataset_name=benchmark,
            metric_type="accuracy",
            metric_value=round(100 * figures["accuracy"], 2),
        )
        for benchmark, figures in (entry.get("benchmarks") or {}).items()
        if figures["accuracy"] is not None
    ]
    data = ModelCardData(
        base_model=base_id,
        license=license_,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["psr-ray", "process-based-self-rewarding", "step-dpo", f"arxiv:{PAPER}"],
        model_name=f"{summary['name']}-{name}" if results else None,
        eval_results=results or None,
    )
    template = (
        Path(config.prompts.templates).name,
        (entry.get("measured_with") or {}).get("prompt_template"),
    )
    card = markdown_templates(TEMPLATES).get_template("model.md.jinja")
    text = card.render(
        metadata=data.to_yaml(),
        summary=summary,
        entry=entry,
        config=config,
        base=base,
        accuracy=share(entry["accuracy"], entry["accuracy_se"]),
        headline=headline(summary["models"]),
        alarms=[line for line in alarm_lines(summary) if line.startswith(f"{name}:")],
        views=[markdown(view) for view in views(summary)],
        template=template,
        settings=yaml.safe_dump(public_settings(config), sort_keys=False, allow_unicode=True),
        license=license_,
        paper_method=MethodConfig(),
    )
    write_text(folder / "README.md", text)


def write_dataset_card(
    folder: Path,
    kind: str,
    files: dict[str, int],
    summary: Json,
    config: Config,
    license_: str | None,
) -> None:
    """A dataset's card; each of its files is a subset of its own beside the whole."""
    from huggingface_hub import DatasetCardData

    total = sum(files.values())
    subsets: list[Json] = [
        {"config_name": "default", "data_files": "data/*.parquet", "default": True}
    ]
    if len(files) > 1:
        subsets += [{"config_name": name, "data_files": f"data/{name}.parquet"} for name in files]
    data = DatasetCardData(
        license=license_,
        language="en",
        task_categories=["text-generation"],
        size_categories=next((name for most, name in SIZES if total < most), "n>1M"),
        tags=["psr-ray", "mathematics", f"arxiv:{PAPER}"],
        configs=subsets,
    )
    card = markdown_templates(TEMPLATES).get_template(f"{kind}.md.jinja")
    text = card.render(
        metadata=data.to_yaml(),
        summary=summary,
        config=config,
        base=base_model(config)[0],
        files=files,
        total=total,
    )
    write_text(folder / "README.md", text)
