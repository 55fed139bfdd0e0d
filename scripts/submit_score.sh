#!/usr/bin/env bash
# `spark-dl score` on a cluster, by spark-submit and with a packed environment: scripts/submit_score.sh --help
set -euo pipefail

exec "$(dirname -- "${BASH_SOURCE[0]}")/submit.sh" score "$@"
