#!/bin/sh
# GPU discovery script (spark.executor.resource.gpu.discoveryScript, spark.worker.resource.gpu.discoveryScript): prints the
# indexes of the GPUs that nvidia-smi lists, as Spark expects. Without nvidia-smi it fails, and so does the executor's start.
set -eu

indexes=$(nvidia-smi --query-gpu=index --format=csv,noheader)
printf '{"name": "gpu", "addresses": ['
separator=
for index in $indexes; do
  printf '%s"%s"' "$separator" "$index"
  separator=', '
done
printf ']}\n'
