"""A small Llama in the body of a large one: the same function, at the cost of the large one.

python -m benchmarks.enlarge MODEL OUT          (a tiny model's folder; 1.1B parameters by default)

A GPU's time on a model of 1M parameters says nothing about models that people use, and a random large
model makes no steps to search. Here each weight matrix of the small model lies in a larger one, the rest
of which is random where its result is multiplied by zero, and zero elsewhere; layers that are too many
add nothing. Norms, attention and rotary embedding are set so that the logits stay what they were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

HEAD = 64
TOLERANCE = 1e-3


def enlarged(small: LlamaForCausalLM, config: LlamaConfig) -> LlamaForCausalLM:
    """A model of the large config that computes what the small one does.

    The small one needs as many key-value heads as the large one, half its head size, tied or plain
    embeddings. Its RoPE frequencies are every second one of the large model's."""
    torch.manual_seed(0)
    large = LlamaForCausalLM(config)
    old, new = small.config, config
    width, head = old.hidden_size, old.head_dim
    if (new.num_key_value_heads, new.head_dim) != (old.num_key_value_heads, 2 * head):
        raise typer.BadParameter("needs the same key-value heads at half the large head size")
    group = new.num_attention_heads // old.num_attention_heads
    half = torch.arange(head // 2)
    in_head = torch.cat([2 * half, 2 * half + head])  # RoPE turns dimensions i and i + head/2

    def places(num_heads: int, stride: int) -> torch.Tensor:
        starts = torch.arange(num_heads) * stride * new.head_dim
        return (starts[:, None] + in_head[None, :]).flatten()

    q_rows = places(old.num_attention_heads, group)
    kv_rows = places(old.num_key_value_heads, 1)
    shrink = (width / new.hidden_size) ** 0.5  # norms: a mean over more dimensions
    with torch.no_grad():
        for ours, theirs in (
            (large.model.embed_tokens, small.model.embed_tokens),
            (large.lm_head, small.lm_head),
        ):
            ours.weight.zero_()
            ours.weight[:, :width] = theirs.weight
        for number, layer in enumerate(large.model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            attention.o_proj.weight.zero_()
            mlp.down_proj.weight.zero_()
            if number >= old.num_hidden_layers:
                continue
            source = small.model.layers[number]
            kv_heads = (attention.k_proj, attention.v_proj)
            for ours in kv_heads:  # what lies between the small model's dimensions must not count
                ours.weight.zero_()
            attention.q_proj.weight[:, :width] = 0
            attention.q_proj.weight[q_rows, :width] = source.self_attn.q_proj.weight * 2**0.5
            attention.k_proj.weight[kv_rows, :width] = source.self_attn.k_proj.weight
            attention.v_proj.weight[kv_rows, :width] = source.self_attn.v_proj.weight
            columns = torch.arange(width)
            attention.o_proj.weight[columns[:, None], q_rows[None, :]] = (
                source.self_attn.o_proj.weight
            )
            for name in ("gate_proj", "up_proj"):
                theirs = getattr(source.mlp, name).weight
                getattr(mlp, name).weight[: len(theirs), :width] = theirs
            mlp.down_proj.weight[:width, : old.intermediate_size] = source.mlp.down_proj.weight
            for name in ("input_layernorm", "post_attention_layernorm"):
                getattr(layer, name).weight[:width] = getattr(source, name).weight * shrink
        large.model.norm.weight[:width] = small.model.norm.weight * shrink
    return large


def large_config(small: LlamaConfig, hidden: int, layers: int) -> LlamaConfig:
    """Sizes in the proportions of Llama models; vocabulary and positions of the small one."""
    return LlamaConfig(
        vocab_size=small.vocab_size,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // HEAD,
        num_key_value_heads=small.num_key_value_heads,
        head_dim=HEAD,
        max_position_embeddings=small.max_position_embeddings,
        rms_norm_eps=small.rms_norm_eps * small.hidden_size / hidden,
        rope_parameters=small.rope_parameters,
        eos_token_id=small.eos_token_id,
        pad_token_id=small.pad_token_id,
        tie_word_embeddings=False,
    )


def main(
    model: Path,
    out: Path,
    hidden: Annotated[int, typer.Option(help="hidden size, a multiple of 256")] = 2048,
    layers: Annotated[int, typer.Option()] = 22,
) -> None:
    """Write the large model in bfloat16, after a check of its logits in float32."""
    small = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    large = enlarged(small, large_config(small.config, hidden, layers))
    ids = torch.randint(2, small.config.vocab_size, (2, 50))
    with torch.no_grad():
        expected, found = small(ids).logits, large(ids).logits
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    if difference > TOLERANCE:
        raise SystemExit(f"{out}: logits differ by {difference:.1e} of the largest one")
    large.to(torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(model).save_pretrained(out)
    parameters = sum(p.numel() for p in large.parameters())
    print(f"{out}: {parameters / 1e6:.0f}M parameters; logits differ by {difference:.1e}")


if __name__ == "__main__":
    typer.run(main)
