#!/usr/bin/env bash
# Every check there is: set-up, lint, format, types, dependencies, tests. Stops at the first that fails. Arguments go to
# pytest. Two processes share the tests, unless the arguments say otherwise.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
# shellcheck source=scripts/env.sh
. scripts/env.sh

# A debugger needs the tests in the process that has the terminal.
processes=(--numprocesses 2 --dist loadgroup --no-loadscope-reorder)
for argument; do
  case $argument in
    -n* | --numprocesses* | --dist* | -d | --tx* | *no:xdist | --pdb | --trace) processes=() ;;
  esac
done

echo "==> ruff"
ruff check .
ruff format --check .
echo "==> mypy"
mypy spark_dl
echo "==> deptry"
deptry .
echo "==> pytest"
exec python -m pytest --durations=20 "${processes[@]}" "$@"
