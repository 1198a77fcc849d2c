"""Our settings, requests and completions in vLLM's terms."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psr_ray.config import EngineConfig, ModelConfig
from psr_ray.inference.weights import Proof, ReloadingWorker
from psr_ray.method.generation import Completion, Finish, GenerationRequest

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams


# Of Linux on x86-64: a system call, what it is asked for (ARCH_REQ_XCOMP_PERM), the tiles of AMX.
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18


def engine_environment(settings: EngineConfig) -> dict[str, str]:
    """Environment of the process that is to hold an engine; must be set before vLLM's import."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if settings.tensor_parallel_size == 0:
        variables |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(settings.cpus_per_engine),
            "THP_MEM_ALLOC_ENABLE": "1",  # large tensors of a step come and go: fewer page faults
        }
        if settings.enforce_eager:
            # parts of vLLM's sampler compile themselves all the same, which needs a C++ compiler
            variables["TORCHDYNAMO_DISABLE"] = "1"
    return variables


def allow_amx() -> None:
    """Ask Linux for AMX's registers. On a CPU that has them vLLM's attention in bfloat16 uses them
    without asking, and the process dies of an illegal instruction (vLLM 0.32; not always, as a library
    below may have asked). Where there are none, nothing happens."""
    if sys.platform == "linux" and platform.machine() == "x86_64":
        ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA)


def with_exact_logits(config: Any) -> Any:
    """A model's config for vLLM with logits in 32 bits, as in training.

    Verdicts compare two logits: rounded to bfloat16, the probabilities of a 0.5B judge took eight values
    (docs/real-model.md). On GPU vLLM accumulates them in 32 bits without a copy of the weights; on CPU,
    in bfloat16, the head is about nine times slower. Quantised models are left alone: their heads may be
    quantised, too.
    """
    for part in (config, config.get_text_config()):
        if part.__dict__.get("head_dtype") is None and not hasattr(config, "quantization_config"):
            part.head_dtype = "float32"
    return config


def engine_arguments(
    model_path: str, model: ModelConfig, settings: EngineConfig, seed: int, num_models: int = 1
) -> dict[str, Any]:
    """Arguments of vLLM's ``EngineArgs`` for a config; ``num_models`` share the GPU's memory."""
    arguments: dict[str, Any] = {
        "model": model_path,
        "dtype": model.dtype,
        "max_model_len": model.max_length,
        "max_num_seqs": settings.max_num_seqs,
        "trust_remote_code": model.trust_remote_code,
        "enforce_eager": settings.enforce_eager,
        "enable_prefix_caching": True,
        "seed": seed,
        "disable_log_stats": True,
        "generation_config": "vllm",
        "load_format": "safetensors",  # never a pickle
        "hf_overrides": with_exact_logits,
        "worker_extension_cls": f"{ReloadingWorker.__module__}.{ReloadingWorker.__qualname__}",
    }
    if settings.kv_cache_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
    if settings.tensor_parallel_size == 0:
        arguments |= {"distributed_executor_backend": "uni", "block_size": 32}
        if settings.seeded_sampling:
            # a prompt read in parts draws a token too many, which vLLM takes back from a generator's
            # offset; a CPU generator has none (RuntimeError in GPUModelRunner._bookkeeping_sync)
            arguments["enable_chunked_prefill"] = False
    else:
        arguments |= {
            "tensor_parallel_size": settings.tensor_parallel_size,
            "gpu_memory_utilization": settings.gpu_memory_utilization / num_models,
            "enable_sleep_mode": settings.shares_gpus,
        }
        if settings.tensor_parallel_size > 1:
            arguments["distributed_executor_backend"] = "mp"
    return arguments


def request_seed(request: GenerationRequest, seed: int) -> int:
    """A seed for what is sampled: of the run, the prompt, and how often it was sampled from before."""
    text = f"{seed}/{request.draw}/{request.prompt_ids}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def sampling_params(request: GenerationRequest, seed: int | None = None) -> SamplingParams:
    """vLLM's parameters for a request; only the finished output is returned, but for a request with a
    limit in seconds. With ``seed``, the run's, the same samples are drawn for it in any engine."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        logprob_token_ids=list(request.choice_ids) or None,
        n=request.num_samples,
        seed=None if seed is None or not request.temperature else request_seed(request, seed),
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_tokens,
        stop=None if request.stop is None else [request.stop],
        include_stop_str_in_output=True,
        detokenize=request.stop is not None,
        output_kind=(
            RequestOutputKind.FINAL_ONLY
            if request.max_seconds is None
            else RequestOutputKind.CUMULATIVE
        ),
    )


def scoring_params() -> SamplingParams:
    """vLLM's parameters for a request of which only the prompt's log-probabilities are wanted."""
    from vllm import SamplingParams

    return SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)


def answers_of(engine: Any, proof: Proof) -> list[float]:
    """An idle vLLM engine's log-probabilities of a proof's completions, each summed over its tokens. One
    at a time: the same shapes each time, so that the same weights give the same answers."""
    found = list[float]()
    for prompt_ids, ids in zip(proof.prompt_ids, proof.completion_ids, strict=True):
        prompt, outputs = {"prompt_token_ids": [*prompt_ids, *ids]}, list[Any]()
        engine.add_request(f"proof-{len(found)}", prompt, scoring_params())
        while engine.has_unfinished_requests():
            outputs += engine.step()
        logprobs = outputs[-1].prompt_logprobs[-len(ids) :]
        found.append(sum(at[token].logprob for token, at in zip(ids, logprobs, strict=True)))
    return found


def choice_place(token_ids: Sequence[int], request: GenerationRequest) -> int | None:
    """The token at which a request's choice is read: its last that is one of the choices, or its only
    one; None where there is none."""
    if request.choice_ids and request.max_tokens == 1:
        return 0
    places = (n for n in range(len(token_ids) - 1, -1, -1) if token_ids[n] in request.choice_ids)
    return next(places, None)


def completions_of(output: RequestOutput, request: GenerationRequest) -> list[Completion]:
    """Our completions of one vLLM request, finished or cut off by its limit in seconds."""
    cached = output.num_cached_tokens or 0
    completions = []
    for sample in output.outputs:
        place = choice_place(sample.token_ids, request)
        logprobs: tuple[float, ...] = ()
        if place is not None and sample.logprobs:
            logprobs = tuple(sample.logprobs[place][i].logprob for i in request.choice_ids)
        stopped = sample.finish_reason == "stop"
        finish: Finish = "length" if output.finished else "time"
        if stopped:
            # a token of the model's generation_config that also ends it is given as its id
            finish = "stop" if isinstance(sample.stop_reason, str) else "eos"
        completions.append(
            Completion(
                token_ids=tuple(sample.token_ids),
                finish=finish,
                choice_logprobs=logprobs,
                choice_place=place or 0,
                num_cached_tokens=cached,
            )
        )
    return completions
