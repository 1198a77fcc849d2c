"""Logs with their stage's tags; traces of tasks to files and to a collector."""

import io
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import ray
from rich.console import Console

from psr_ray.config import TelemetryConfig
from psr_ray.method.generation import Completion, GenerationRequest
from psr_ray.telemetry.logs import StageLogger, ray_settings
from psr_ray.telemetry.traces import FOLDER, Tracer, trace_table, traces_of

SAMPLE = GenerationRequest((1, 2, 3), 2, 1.0, 1.0, 8)
JUDGE = GenerationRequest((1, 2, 3, 4), 1, 0.0, 1.0, 8, purpose="compare")
ANSWER = Completion((5, 6), "eos", num_cached_tokens=2)


def task(*, fails=False):
    """Two rounds; returns what it was sent."""
    first = yield [SAMPLE]
    second = yield [JUDGE, JUDGE]
    if fails:
        raise KeyError("mine")
    return {"sent": [first, second]}


def drive(task):
    answers = None
    while True:
        try:
            requests = task.send(answers)
        except StopIteration as stop:
            return stop.value
        answers = [[ANSWER] * request.num_samples for request in requests]


def row(name):
    return {"id": name, "task": "search"}


def test_a_traced_task_is_the_task_and_its_rounds_are_spans(tmp_path):
    stage = tmp_path / "a run" / "search-2"
    tracer = Tracer(stage, 1)
    result = drive(tracer.traced(task(), row("p1")))
    assert result == drive(task())
    plain = task()
    assert tracer.traced(plain, row("p2")) is plain  # one was to be kept
    [[whole, *rounds]] = traces_of(stage)
    assert (whole.name, whole.attributes["problem"]) == ("search", "p1")
    assert (whole.attributes["run"], whole.attributes["iteration"]) == ("a run", "2")
    assert [span.name for span in rounds] == ["solve", "compare"]
    assert [span.attributes["tokens"] for span in rounds] == [4, 4]
    assert [span.attributes["prompt_tokens"] for span in rounds] == [3, 8]
    assert whole.start <= rounds[0].start <= rounds[0].end <= rounds[1].start <= whole.end
    console = Console(file=io.StringIO(), width=120)
    console.print(trace_table([whole, *rounds]))
    assert "p1 (search" in console.file.getvalue()


def test_a_task_that_fails_or_is_closed_ends_its_trace(tmp_path):
    tracer = Tracer(tmp_path, 5)
    with pytest.raises(KeyError, match="mine"):
        drive(tracer.traced(task(fails=True), row("bad")))
    closed = tracer.traced(task(), row("closed"))
    next(closed)
    closed.close()
    lines = [f.read_text() for f in (tmp_path / FOLDER).glob("*.jsonl")]
    assert len(lines) == 2
    assert sum("KeyError" in text for text in lines) == 1


def test_tasks_that_take_turns_have_each_its_own_trace(tmp_path):
    tracer = Tracer(tmp_path, 9)
    tasks = [tracer.traced(task(), row(f"p{i}")) for i in range(3)]
    answers = [None] * 3
    for _ in range(2):
        for i, each in enumerate(tasks):
            answers[i] = [[ANSWER] * request.num_samples for request in each.send(answers[i])]
    for each, sent in zip(tasks, answers, strict=True):
        with pytest.raises(StopIteration):
            each.send(sent)
    assert sorted(spans[0].attributes["problem"] for spans in traces_of(tmp_path)) == [
        "p0", "p1", "p2",
    ]  # fmt: skip
    assert all(len(spans) == 3 for spans in traces_of(tmp_path))


def test_traces_are_sent_to_a_collector(tmp_path, monkeypatch):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_): ...

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    tracer = Tracer(tmp_path, 0)
    drive(tracer.traced(task(), row("p1")))
    tracer.flush()
    server.shutdown()
    server.server_close()
    spans = [
        span.name
        for path, request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if path == "/v1/traces"
    ]
    assert sorted(spans) == ["compare", "search", "solve"]
    assert traces_of(tmp_path) == []


def test_log_lines_carry_run_stage_iteration_and_problem():
    from ray._common.formatters import JSONFormatter

    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(json.loads(JSONFormatter().format(record)))
    logger = logging.getLogger("psr_ray")
    logger.addHandler(handler)
    try:
        log = StageLogger(Path("runs/demo/search-3"))
        log.warning("failed: %s", "why", extra={"problem": "p1"})
    finally:
        logger.removeHandler(handler)
    [line] = seen
    expected = {"run": "demo", "stage": "search-3", "iteration": "3", "problem": "p1"}
    assert line.items() >= expected.items()
    assert line["message"] == "failed: why"


def test_only_json_changes_how_ray_logs():
    assert ray_settings(TelemetryConfig()) == {}
    settings = ray_settings(TelemetryConfig(logs="json"))["logging_config"]
    assert isinstance(settings, ray.LoggingConfig)
    assert settings.encoding == "JSON"
