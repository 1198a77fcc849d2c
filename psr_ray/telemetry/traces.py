"""Traces of searches by OpenTelemetry: the rounds of requests of a problem, with times and token counts.

A trace is a span for the problem's task and within it one for each round of requests: candidates
sampled, steps judged. What lies between two of them is the search's own work. The first problems of each
engine are kept in the stage's folder (``traces/``, a span a line); where ``OTEL_EXPORTER_OTLP_ENDPOINT``
is set, all are sent there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from rich.table import Table

from psr_ray.method.generation import Completion, EngineTask, GenerationRequest
from psr_ray.storage.files import Row, write_text
from psr_ray.telemetry.counters import tags_of

FOLDER = "traces"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class FileExporter(SpanExporter):  # type: ignore[misc]
    """Writes the traces of the first ``num_left`` tasks that end."""

    def __init__(self, stage: Path, num_left: int) -> None:
        self.stage, self.num_left = stage, num_left
        self.open: dict[int, list[ReadableSpan]] = {}

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            of_trace = self.open.setdefault(span.context.trace_id, [])
            of_trace.append(span)
            if span.parent is None:  # the last of its trace to end
                del self.open[span.context.trace_id]
                if self.num_left > 0:
                    self.num_left -= 1
                    lines = [other.to_json(indent=None) + "\n" for other in of_trace]
                    problem = str((span.attributes or {}).get("problem"))
                    write_text(trace_file(self.stage, problem), "".join(lines))
        return SpanExportResult.SUCCESS


def trace_file(stage: Path, problem: str) -> Path:
    """The file of a problem's trace in a stage's folder."""
    return stage / FOLDER / f"{hashlib.sha256(problem.encode()).hexdigest()[:16]}.jsonl"


class Tracer:
    """Traces the tasks of one stage in one engine's process."""

    def __init__(self, stage: Path, num_kept: int) -> None:
        """The first ``num_kept`` go to files, all to a collector if there is one."""
        self.tags = tags_of(stage)
        self.file = FileExporter(stage, num_kept)
        self.collected = any(name in os.environ for name in ENDPOINTS)
        provider = TracerProvider(resource=Resource.create({"service.name": "psr-ray"}))
        provider.add_span_processor(SimpleSpanProcessor(self.file))
        if self.collected:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer = provider.get_tracer("psr_ray")
        self.provider = provider

    def traced(self, task: EngineTask[Row], row: Row) -> EngineTask[Row]:
        """The task, with a trace where it is to have one."""
        if self.file.num_left <= 0 and not self.collected:
            return task
        return spans_of(task, self.tracer, row["task"], self.tags | {"problem": row["id"]})

    def flush(self) -> None:
        """Send to the collector what has not been sent."""
        if self.collected:
            self.provider.force_flush(5000)


def spans_of(
    task: EngineTask[Row], tracer: trace.Tracer, name: str, attributes: dict[str, str]
) -> EngineTask[Row]:
    """The same task, with its rounds of requests as spans of one trace.

    (No span is made the current one: thousands of tasks take turns in one thread.)"""
    whole = tracer.start_span(name, attributes=attributes)
    inside = trace.set_span_in_context(whole)
    answers: list[list[Completion]] | None = None
    try:
        while True:
            try:
                requests = next(task) if answers is None else task.send(answers)
            except StopIteration as stop:
                result: Row = stop.value
                return result
            span = tracer.start_span(requests[0].purpose, context=inside)
            try:
                answers = yield requests
                span.set_attributes(counts_of(requests, answers))
            finally:
                span.end()
    except Exception as error:
        whole.record_exception(error)
        raise
    finally:
        whole.end()


def counts_of(
    requests: Sequence[GenerationRequest], answers: Sequence[Sequence[Completion]]
) -> dict[str, int]:
    """Counts of one round of requests."""
    completions = [completion for answer in answers for completion in answer]
    return {
        "requests": len(requests),
        "completions": len(completions),
        "prompt_tokens": sum(len(request.prompt_ids) for request in requests),
        "cached_tokens": sum(answer[0].num_cached_tokens for answer in answers if answer),
        "tokens": sum(len(completion.token_ids) for completion in completions),
    }


@dataclass(frozen=True)
class Span:
    """A stored span; times in seconds."""

    name: str
    start: float
    end: float
    attributes: dict[str, Any]
    is_whole: bool

    @classmethod
    def read(cls, line: str) -> Span:
        stored = json.loads(line)
        start, end = (
            datetime.fromisoformat(stored[name]).timestamp() for name in ("start_time", "end_time")
        )
        return cls(stored["name"], start, end, stored["attributes"], stored["parent_id"] is None)


def traces_of(stage: Path) -> list[list[Span]]:
    """The stored traces of a stage, each with the task's span first, then its rounds in order."""
    files = sorted((stage / FOLDER).glob("*.jsonl")) if (stage / FOLDER).exists() else []
    traces = [[Span.read(line) for line in file.read_text().splitlines()] for file in files]
    return [sorted(spans, key=lambda s: (not s.is_whole, s.start)) for spans in traces]


def trace_table(spans: Sequence[Span]) -> Table:
    """A trace as a table: start, duration and counts of each round."""
    whole, *rounds = spans
    table = Table(
        title=f"{whole.attributes['problem']} ({whole.name}, {whole.end - whole.start:.2f} s)",
        title_justify="left",
        box=None,
    )
    for name in ("round", "start s", "took s"):
        table.add_column(name, justify="left" if name == "round" else "right")
    names = ("requests", "completions", "prompt_tokens", "cached_tokens", "tokens")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("")
    length = max(whole.end - whole.start, 1e-9)
    for span in rounds:
        begin, end = (round(24 * (at - whole.start) / length) for at in (span.start, span.end))
        table.add_row(
            span.name,
            f"{span.start - whole.start:.3f}",
            f"{span.end - span.start:.3f}",
            *(f"{span.attributes.get(name, 0):,}" for name in names),
            " " * begin + "█" * max(end - begin, 1),
        )
    return table
