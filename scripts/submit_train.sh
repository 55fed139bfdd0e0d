#!/usr/bin/env bash
# `spark-dl train` on a cluster, by spark-submit and with a packed environment: scripts/submit_train.sh --help
set -euo pipefail

exec "$(dirname -- "${BASH_SOURCE[0]}")/submit.sh" train "$@"
