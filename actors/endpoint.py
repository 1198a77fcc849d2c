"""An OpenAI-compatible server in the place of a vLLM engine: a teacher that divides or judges."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from actors.desk import Desk
from actors.searcher import EngineWorker
from psr_ray.config import Config
from psr_ray.config.seed import EndpointConfig
from psr_ray.errors import PsrError, first_line
from psr_ray.inference.records import text_row
from psr_ray.storage.files import Row


class Endpoint:
    """Has the face of an engine; takes rows of the task ``write`` only."""

    is_alive, stalled_s, busy_s = True, 0.0, 0.0

    def __init__(self, settings: EndpointConfig, max_tokens: int) -> None:
        import openai

        self.settings, self.max_tokens = settings, max_tokens
        self.client = openai.OpenAI(
            base_url=settings.url,
            api_key=os.environ.get(settings.key_variable) or "none",
            timeout=settings.timeout_s,
            max_retries=settings.max_retries,
        )
        try:
            self.client.models.list()
        except (openai.APIConnectionError, openai.AuthenticationError) as error:
            reason = first_line(error.__cause__ or error)
            raise PsrError(
                f"endpoint {settings.url}: {reason}; check seed_data.endpoint.url and the key in "
                f"{settings.key_variable}, or set seed_data.endpoint to null for a local model"
            ) from error
        except openai.APIStatusError:
            pass  # a server without a list of its models
        self.pool = ThreadPoolExecutor(settings.max_requests, thread_name_prefix="endpoint")

    def submit(self, row: Row) -> Future[Row]:
        return self.pool.submit(self._write, row)

    def suspects(self) -> list[Any]:
        return []

    def _write(self, row: Row) -> Row:
        response = self.client.chat.completions.create(
            model=self.settings.model,
            messages=[{"role": "user", "content": row["problem"]}],
            temperature=0.0,
            max_tokens=self.max_tokens,
        )
        if not getattr(response, "choices", None):
            raise ValueError(f"endpoint {self.settings.url}: an answer without choices")
        choice = response.choices[0]
        used = response.usage.completion_tokens if response.usage else 0
        return text_row(row["id"], choice.message.content or "", used, choice.finish_reason)


class EndpointWorker(EngineWorker):
    """An actor that asks a server; shards, failures and resumption are the engine's."""

    def _load(self, desk: Desk) -> None:
        settings = desk.config.seed_data.endpoint
        assert settings is not None
        self.engine: Any = Endpoint(settings, desk.config.seed_data.max_tokens)

    def _submit(self, _desk: Desk, row: Row) -> Future[Row]:
        future: Future[Row] = self.engine.submit(row)
        return future


def without_engine(config: Config) -> Config:
    """The config of a stage that only asks a server: one actor, no GPU."""
    changes = {"num_engines": (1, 1), "cpus_per_engine": 1, "tensor_parallel_size": 0}
    changes["max_rows_in_flight"] = config.engine.max_rows_in_flight
    return config.model_copy(update={"engine": config.engine.model_copy(update=changes)})
