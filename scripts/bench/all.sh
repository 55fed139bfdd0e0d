#!/usr/bin/env bash
# All tables of docs/benchmarks.md and docs/scaling.md, one after the other, three quarters of an hour. Nothing else
# should run beside it. `links` needs tc (of the package iproute2), and root or user namespaces; it says so where it is
# left out.
# With PEER_PYTHON (see peer.sh) also against Horovod's own estimator and its model.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/env.sh
. scripts/env.sh
for bench in read canonical_shards convert score score_peers score_images train half fit timeline tracking serving memory scaling links \
  plan project simulate; do
  echo "== $bench"
  python "scripts/bench/$bench.py" 2>/dev/null
done
