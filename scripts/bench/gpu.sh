#!/usr/bin/env bash
# Training on the GPUs of this machine, as a table for docs/benchmarks.md: run it once and paste what it prints. It wants
# what scripts/setup.sh --gpu has built, and takes some minutes. With --cpu it trains a small network on two CPU ranks, which
# shows that the bench itself works. Further arguments go to gpu.py.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

if [[ ${1:-} == --cpu ]]; then
  shift
  gpus=0
  printf '%s\n\n' "CPU, $(nproc) cores."
  small=(--cpu --rows 4000 --batch 64 --epochs 3 --filters 8)
else
  if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >/dev/null; then
    echo "gpu.sh: no GPU: nvidia-smi does not run; --cpu trains a small network on two CPU ranks" >&2
    exit 2
  fi
  built=$(python -c 'import horovod.tensorflow as hvd; print(int(bool(hvd.nccl_built())))' 2>/dev/null)
  if [[ $built != 1 ]]; then
    echo "gpu.sh: Horovod was built without NCCL: run scripts/setup.sh --gpu" >&2
    exit 2
  fi
  gpus=$(nvidia-smi -L | wc -l)
  printf '%s\n\n' "$(nvidia-smi --query-gpu=count,name,memory.total,driver_version --format=csv,noheader | head -n 1), $(nproc) cores."
  small=()
fi
exec python scripts/bench/gpu.py --gpus "$gpus" "${small[@]}" "$@" 2>/dev/null
