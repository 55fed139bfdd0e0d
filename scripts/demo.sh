#!/usr/bin/env bash
# The main job on real data, from a fresh clone: set-up, then handwritten digits in a Spark DataFrame, a network
# trained by Horovod on two executors, scores, and all of it in MLflow.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
# shellcheck source=scripts/env.sh
. scripts/env.sh

output=$PWD/demo-output
python scripts/demo.py train "$output"
echo "==> A new process loads the pipeline and scores the same rows"
python scripts/demo.py reload "$output"
echo "==> Where it all is"
echo "    pipeline: $output/pipeline"
echo "    MLflow:   sqlite:///$output/mlflow.db"
echo "    its page: $PWD/.venv/bin/mlflow ui --backend-store-uri sqlite:///$output/mlflow.db   (then open http://127.0.0.1:5000)"
