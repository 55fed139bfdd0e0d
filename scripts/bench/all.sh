#!/usr/bin/env bash
# All tables of docs/benchmarks.md and docs/scaling.md, one after the other, more than an hour. Nothing else
# should run beside it. `links` needs tc (of the package iproute2), and root or user namespaces; it says so where it is
# left out.
# With DATA=DIR also `images` with the photographs in DIR/hymenoptera/train (without DATA it draws its images), and
# `tasks` with the data sets that tasks.py lists, of which those that DIR lacks are left out. With PEER_PYTHON (see
# peer.sh) also against Horovod's own estimator and its model.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/env.sh
. scripts/env.sh
errors=$(mktemp)
trap 'rm -f -- "$errors"' EXIT
failed=()
# One that fails doesn't end the others.
run() {
  echo "== $1"
  python "scripts/bench/$1.py" "${@:2}" 2>"$errors" && return
  failed+=("$1")
  tail -n 5 -- "$errors" >&2
}
photographs=${DATA:+$DATA/hymenoptera/train}
for bench in equality read canonical_shards convert score first_score score_peers score_images train half fit timeline tracking serving memory scaling links \
  plan project simulate; do
  run "$bench"
done
if [[ -d $photographs ]]; then run images "$photographs"; else run images; fi
if [[ -n ${DATA:-} ]]; then run tasks "$DATA"; fi
if ((${#failed[@]})); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
