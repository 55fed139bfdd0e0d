#!/usr/bin/env bash
# All tables of docs/benchmarks.md, one after the other, about half an hour. Nothing else should run beside it.
# With PEER_PYTHON (see peer.sh) also the fit of Horovod's own estimator.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/env.sh
. scripts/env.sh
for bench in read canonical_shards convert score train fit; do
  echo "== $bench"
  python "scripts/bench/$bench.py" 2>/dev/null
done
