"""TRL's DPOTrainer on pairs of token ids, as the other side of the training benchmarks.

It takes the ids as they are (its own tokenisation would add an EOS to every step), groups rows by length
(its padding-free mode is switched off in this version), and scores completions only, which it does by
itself on CUDA alone. Reference log-probabilities are made in the first epoch, before its clock starts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

EMBEDDED = Path(__file__).resolve().parent.parent / "psr_ray" / "embedded" / "tiny-m0"


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt and its two completions."""

    prompt_ids: Sequence[int]
    chosen_ids: Sequence[int]
    rejected_ids: Sequence[int]

    def row(self) -> dict[str, Any]:
        """A row of TRL's dataset."""
        ids = {name: list(value) for name, value in vars(self).items()}
        return ids | {"length": len(self.prompt_ids) + len(self.chosen_ids)}


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Times what lies between the start and the end of a training."""

    seconds = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.started


class Trl:
    """A trainer whose ``epoch`` trains on all pairs once, ``batch`` of them an optimizer step."""

    def __init__(
        self, model: Any, pairs: Sequence[Pair], folder: Path, *, batch: int, micro: int, lr: float,
        beta: float,
    ) -> None:  # fmt: skip
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import DPOConfig, DPOTrainer
        from trl.trainer import utils

        on_cpu = next(model.parameters()).device.type == "cpu"
        if on_cpu:  # else its output head meets prompts, too
            utils._use_triton = lambda _device: True

        class OnIds(DPOTrainer):  # type: ignore[misc]
            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

        self.num_tokens = sum(
            2 * len(p.prompt_ids) + len(p.chosen_ids) + len(p.rejected_ids) for p in pairs
        )
        self.watch = Stopwatch()
        self.trainer = OnIds(
            model=model,
            args=DPOConfig(
                output_dir=str(folder),
                per_device_train_batch_size=micro,
                gradient_accumulation_steps=batch // micro,
                num_train_epochs=1,
                learning_rate=lr,
                beta=beta,
                precompute_ref_log_probs=True,
                precompute_ref_batch_size=micro,
                train_sampling_strategy="group_by_length",
                length_column_name="length",
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=on_cpu,
                max_length=None,
                remove_unused_columns=False,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list([pair.row() for pair in pairs]),
            processing_class=AutoTokenizer.from_pretrained(EMBEDDED),
            callbacks=[self.watch],
        )

    def epoch(self) -> float:
        """Seconds of one pass over the pairs."""
        self.trainer.train()
        return self.watch.seconds
