"""Make the embedded base model M0, tiny-m0: a Llama of 0.9M parameters and its tokenizer.

    python jobs/pretrain_tiny.py --out A --num-updates 10500
    python jobs/pretrain_tiny.py --out B --start-from A --num-updates 2800 --lr 1e-3 --seed 1
    python jobs/pretrain_tiny.py --out C --start-from B --num-updates 1500 --lr 8e-4 --seed 2

Data: the endless corpus of jobs/tiny_corpus.py (arithmetic in words and figures; seeded), 32
documents an update. The settings, documents, tokens, minutes and versions of the three runs stand
beside the weights (C is psr_ray/embedded/tiny-m0; its pretraining.json). Between the runs the corpus
gained kinds of documents, so that today's corpus gives a like model, not the same. Plain PyTorch, one
process: M0 is a stand-in for a published base model; from M1 on everything runs under Ray and DeepSpeed.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from jobs.tiny_corpus import KINDS, documents
from psr_ray.data.rows import pair_row, problem_row
from psr_ray.embedded.arithmetic import generate_problems
from psr_ray.embedded.seed import judged_pairs

EOS, PAD = "<|endoftext|>", "<|pad|>"


def train_tokenizer(vocab_size: int) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, as in the Qwen and Llama families; spells any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = [d.given + d.text for d in itertools.islice(documents(seed=1), 6000)]
    rows = [problem_row("solve", p) for p in generate_problems("ift", 1000, seed=1)]
    texts += [f"{row['problem']}\n{row['solution']}" for row in rows]
    pairs = [pair_row(pair) for pair in judged_pairs("eft", 1000, seed=1)]
    texts += [f"A: {row['step_a']}\nJudge:{row['judgement']}" for row in pairs]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[EOS, PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, model_max_length=1024
    )


IGNORED = -100
Row = tuple[list[int], list[int]]


def pad(rows: list[Row], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Given and text of each row, padded on the right: ids [B, L] and labels [B, L], the texts'."""
    length = max(len(given) + len(text) for given, text in rows)
    ids = torch.full((len(rows), length), pad_id)
    labels = torch.full((len(rows), length), IGNORED)
    for index, (given, text) in enumerate(rows):
        end = len(given) + len(text)
        ids[index, :end] = torch.tensor([*given, *text])
        labels[index, len(given) : end] = torch.tensor(text)
    return ids, labels


def batches(
    tokenizer: Tokenizer, eos_id: int, pad_id: int, size: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of documents of like length."""
    rng = random.Random(f"batches/{seed}")
    stream = documents(seed)
    while True:
        rows = []
        for document in itertools.islice(stream, size * 32):
            rows.append(
                (
                    tokenizer.encode(document.given).ids,
                    [*tokenizer.encode(document.text).ids, eos_id],
                )
            )
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(groups)
        yield from (pad(group, pad_id) for group in groups)


def new_model(
    tokenizer: transformers.PreTrainedTokenizerFast, num_layers: int
) -> transformers.LlamaForCausalLM:
    """An untrained model."""
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return transformers.LlamaForCausalLM(config)


def main(
    out: Annotated[Path, typer.Option(help="folder of the model")],
    num_updates: int = 4500,
    batch_size: int = 32,
    lr: float = 2e-3,
    num_layers: int = 4,
    seed: int = 0,
    start_from: Annotated[Path | None, typer.Option(help="model folder to train further")] = None,
) -> None:
    """Pretrain, write the model folder and pretraining.json."""
    torch.manual_seed(seed)
    phases: list[dict[str, object]] = []
    if start_from is None:
        tokenizer = train_tokenizer(vocab_size=640)
        model = new_model(tokenizer, num_layers)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(start_from)
        model = transformers.LlamaForCausalLM.from_pretrained(start_from)
        phases = json.loads((start_from / "pretraining.json").read_text())
    tokenizer.save_pretrained(out)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / 200)
            * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / num_updates)))
        ),
    )
    stream = batches(
        tokenizer.backend_tokenizer,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        batch_size,
        seed,
    )
    started, num_tokens, smooth = time.time(), 0, 0.0
    for update, (ids, labels) in zip(range(1, num_updates + 1), stream, strict=False):
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        num_tokens += ids.numel()
        smooth = loss.item() if update == 1 else 0.98 * smooth + 0.02 * loss.item()
        if update % 250 == 0:
            spent = time.time() - started
            print(
                f"update {update} loss {smooth:.4f} {num_tokens / spent:.0f} tokens/s", flush=True
            )
    model.save_pretrained(out)
    facts = {
        "kinds_of_documents": {kind.__name__: weight for kind, weight in KINDS.items()},
        "seed": seed,
        "lr": lr,
        "num_updates": num_updates,
        "batch_size": batch_size,
        "num_tokens": num_tokens,
        "num_parameters": model.num_parameters(),
        "last_loss": round(smooth, 4),
        "wall_min": round((time.time() - started) / 60, 1),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (out / "pretraining.json").write_text(json.dumps([*phases, facts], indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
