#!/usr/bin/env bash
# What only a GPU can show, in parts of under ten minutes each; results in benchmarks/results and results/.
#
#   benchmarks/gpu_session.sh train                 token trees against padded pairs and TRL, with a profile
#   benchmarks/gpu_session.sh search MODEL          512 searches at once, CUDA graphs, against flat out
#   benchmarks/gpu_session.sh engine MODEL          an engine's start, sleep, wake and reload
#   benchmarks/gpu_session.sh real MODEL CONFIG     a real model's run by a config (docs/real-model.md)
#   benchmarks/gpu_session.sh tiny                  all parts in small on CPU: to see that they work
#
# MODEL is a folder in Hugging Face format. `train` needs torch, transformers, trl; the others vLLM.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
part=${1:?part: train, search, engine, real or tiny}
model=${2:-}
on_gpu=(--set engine.tensor_parallel_size=1 --set model.dtype=bfloat16 --set engine.kv_cache_gib=null)

case "$part" in
train)
    "$python" -m benchmarks.gpu_train --repeats 5
    ;;
search)
    "$python" -m benchmarks.search --name gpu_search --model "${model:?MODEL}" --num 512 \
        --num-repeats 3 "${on_gpu[@]}" --set engine.enforce_eager=false \
        --set engine.max_rows_in_flight=512 --set engine.max_num_seqs=1024
    ;;
engine)
    "$python" -m benchmarks.gpu_engine --model "${model:?MODEL}" "${on_gpu[@]}" \
        --set engine.enforce_eager=false --set sft=null --set dpo.num_workers=1 --set dpo.use_gpu=true
    ;;
real)
    "$(dirname "$python")/psr-ray" run --config "${3:?CONFIG}" --set "model.base=${model:?MODEL}"
    ;;
tiny)
    "$python" -m benchmarks.gpu_train --device cpu --steps 4 --searches 2 --repeats 1 --budget 2048
    "$python" -m benchmarks.search --name tiny --model psr_ray/embedded/tiny-m0 \
        --num 4 --num-single 1 --num-repeats 1
    rm benchmarks/results/tiny.json
    "$python" -m benchmarks.gpu_engine --repeats 1
    "$(dirname "$python")/psr-ray" run --config configs/smoke.yaml --set name=gpu-session-tiny
    ;;
*)
    echo "unknown part: $part" >&2
    exit 2
    ;;
esac
