"""The terminal: a line per stage with a bar, rows, tokens/s and time left; the table at the end."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from psr_ray.measures.health import search_alarms
from psr_ray.stages import PlannedStage
from psr_ray.storage.files import Json
from psr_ray.telemetry.progress import read_progress

# Seconds between two lines about what a run waits for.
REPORT_EVERY_S = 60.0


def duration(seconds: float) -> str:
    """``42 s`` or ``3 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class NoDisplay:
    """Shows nothing."""

    def skipped(self, planned: PlannedStage) -> None: ...

    def watch(self, planned: PlannedStage) -> None: ...

    def finished(self, planned: PlannedStage) -> None: ...


class RunDisplay:
    """A live line for the current stage; finished stages stay as one line each."""

    def __init__(self, run_dir: Path, console: Console) -> None:
        self.run_dir = run_dir
        self.console = console
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._started = 0.0
        self._reported_at = -REPORT_EVERY_S

    def __enter__(self) -> RunDisplay:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def skipped(self, planned: PlannedStage) -> None:
        self.console.print(f"[dim]✓ {planned.title} (complete)[/dim]")

    def watch(self, planned: PlannedStage) -> None:
        self.show(planned.title)

    def show(self, title: str) -> None:
        """Show the progress of the work of this title, as its file has it."""
        if self._task is None:
            self._title, self._started = title, time.time()
            self._task = self.progress.add_task(title, total=None, detail="starting")
        state = read_progress(self.run_dir)
        if state is None or state.stage != self._title:
            return
        if state.written_at < self._started:  # left by an earlier process
            return
        if state.waiting is not None:
            self._wait(self._task, state.waiting)
            return
        left = "" if state.left_s is None else f", {duration(state.left_s)} left"
        self.progress.update(
            self._task,
            total=state.total,
            completed=state.done,
            detail=f"{state.done}/{state.total} {state.unit}, {state.tokens_per_s:,.0f} tokens/s{left}",
        )

    def _wait(self, task: TaskID, what: str) -> None:
        """Show what the stage waits for: in the live line, and once a minute as a log line."""
        self.progress.update(task, detail=what)
        if time.monotonic() - self._reported_at > REPORT_EVERY_S:
            self._reported_at = time.monotonic()
            self.console.print(f"[dim]{self._title}: {escape(what)}[/dim]", soft_wrap=True)

    def finished(self, planned: PlannedStage) -> None:
        if self._task is not None:
            self.progress.remove_task(self._task)
            self._task = None
        self.console.print(f"[green]✓[/green] {finished_line(planned)}")
        if planned.kind == "search":  # before anything is trained on it
            for kind, message in search_alarms(planned.stage.manifest or {}):
                self.console.print(f"[yellow]! {kind}: {escape(message)}[/yellow]", soft_wrap=True)


def finished_line(planned: PlannedStage) -> str:
    """A complete stage with its time and figures, in rich's markup."""
    manifest = planned.stage.manifest or {}
    facts = ", ".join(
        f"{name} {manifest[key]:{form}}"
        for key, name, form in (
            ("num_pairs", "pairs", "d"),
            ("kept", "kept", "d"),
            ("test", "set aside", "d"),
            ("accuracy", "accuracy", ".1%"),
            ("judge_accuracy_on_policy", "judge", ".1%"),
            ("asked_share", "comparisons asked", ".0%"),
            ("num_steps", "steps", "d"),
            ("num_failed", "failed rows", "d"),
        )
        if manifest.get(key) is not None and not (key == "num_failed" and not manifest[key])
    )
    if manifest.get("num_dropped"):
        some = ", ".join(map(escape, manifest["dropped"][:3]))
        facts += f", rows that do not fit {manifest['num_dropped']} ({some}…)"
    if (idle := manifest.get("padding_share") or 0.0) >= 0.1:
        facts += f", {idle:.0%} of the workers' passes idle"
    wall, beside_s = duration(manifest["wall_s"]), manifest.get("beside_s") or 0.0
    if beside_s >= 1:
        wall = f"{duration(beside_s)} beside the evaluation, then {wall}"
    return f"{planned.title} [dim]{wall}{'; ' + facts if facts else ''}[/dim]"


def share(value: float | None, error: float | None = None) -> str:
    """A share in percent, with its standard error where there is one; a dash where not measured."""
    if value is None:
        return "–"
    return f"{value:.1%}" if error is None else f"{100 * value:.1f} ± {100 * error:.1f} %"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


# Models in a table, at most; figures and summary.json have all.
MOST_ROWS = 12


def thinned(models: list[Json]) -> list[Json]:
    """The models for a table: of many the first, the last, and others evenly between them."""
    if len(models) <= MOST_ROWS:
        return models
    places = {round(i * (len(models) - 1) / (MOST_ROWS - 1)) for i in range(MOST_ROWS)}
    first = next(i for i, entry in enumerate(models) if entry["name"] != "M0")
    return [models[i] for i in sorted(places | {first})]


COLUMNS = (
    "model",
    "accuracy",
    "judge: fixed",
    "judge: own",
    "flips",
    "ties",
    "unparsable",
    "pairs",
    "steps",
    "tokens/step",
    "time",
)
LEGEND = (
    "accuracy: greedy, held-out problems, ± one standard error. judge: verdicts right on the fixed "
    "pairs, and on comparisons of two fresh steps of the model's own of which exactly one is right. "
    "flips: pairs whose two orders name the same position. ties: judged steps that give no "
    "preference (all scores equal, or no lead beyond the judge's error). unparsable: verdicts. "
    "pairs: step preferences trained on since the model evaluated before. steps: per solution. time: "
    "all stages that made it from that model, and measured it. A dash: not measured."
)


HEALTH_COLUMNS = (
    "model",
    "hard set",
    "self-reward",
    "true reward",
    "τ to the one before",
    "τ to M1",
    "says A",
    "longer wins",
    "pass@8",
    "answers of 8",
    "chosen Δlogp",
    "rejected Δlogp",
)
HEALTH_LEGEND = (
    "hard set: greedy accuracy on harder held-out problems. self-reward: how often the model prefers "
    "its own greedy step to M1's candidates; true reward: how often it is better in truth (M1: one "
    "half). τ: Kendall's tau-b of its rankings of M1's candidates to those of another model. says A: "
    "share of verdicts. longer wins: share of judged pairs of different lengths that the longer step "
    "wins. answers of 8: different answers among eight samples. Δlogp: change of the steps' "
    "log-probability by training, mean over its pairs, in nats. A dash: not measured."
)


def health_cells(entry: Json) -> list[str]:
    """A model's row of the health table."""
    probes, training = entry.get("probes") or {}, entry.get("training") or {}
    hard = entry.get("hard") or {}

    def signed(value: float | None, places: int = 2) -> str:
        return "–" if value is None else f"{value:+.{places}f}"

    return [
        entry["name"],
        share(hard.get("accuracy"), hard.get("accuracy_se")),
        share(probes.get("self_reward")),
        share(probes.get("true_reward")),
        signed(probes.get("tau_before")),
        signed(probes.get("tau_first")),
        share(entry.get("first_share")),
        share(entry.get("longer_win_share")),
        share(entry.get("pass_at_8")),
        number(entry.get("distinct_answers")),
        signed(training.get("chosen_logp_change")),
        signed(training.get("rejected_logp_change")),
    ]


def alarm_lines(summary: Json) -> list[str]:
    """The run's alarms, a line each."""
    return [f"{a['model']}: {a['kind']}: {a['message']}" for a in summary["alarms"]]


def held_line(summary: Json) -> str:
    """What the run held of the cluster, which is what it costs; empty where nothing was counted."""
    held = summary["held"]
    if not held["seconds"]:
        return ""
    return (
        f"held: {held['seconds'] / 3600:,.2f} {held['resource']}-hours by engines and training workers, "
        f"which worked {held['busy_share']:.0%} of that"
    )


def cells(entry: Json) -> list[str]:
    """A model's row of the table."""
    return [
        entry["name"],
        share(entry["accuracy"], entry["accuracy_se"]),
        share(entry["judge_accuracy_fixed"]),
        share(entry["judge_accuracy_on_policy"]),
        share(entry["order_flip_share"]),
        share(entry["tie_share"]),
        share(entry["unparsable_share"]),
        str(entry["num_pairs"]),
        number(entry["steps_per_solution"]),
        number(entry["tokens_per_step"]),
        duration(entry["wall_s"]),
    ]


WIDE = 116


def model_table(summary: Json, width: int = WIDE) -> Table:
    """The table of a run, a row a model; a column a model where the screen is narrower."""
    table = Table(title=f"run {summary['name']}", caption=LEGEND, caption_justify="left")
    shown = thinned(summary["models"])
    rows = [list(COLUMNS), *(cells(entry) for entry in shown)]
    if width < WIDE:
        rows = [list(row) for row in zip(*rows, strict=True)]
    for index, heading in enumerate(rows[0]):
        table.add_column(heading, justify="left" if index == 0 else "right")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def screen() -> Console:
    """The terminal; what is no terminal is as wide as the table."""
    console = Console()
    return console if console.is_terminal else Console(width=126)
