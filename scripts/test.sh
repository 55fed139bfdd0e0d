#!/usr/bin/env bash
# Every check there is: set-up, lint, format, types, dependencies, tests. Stops at the first that fails. Arguments go to
# pytest. Two processes share the tests, unless the arguments say otherwise.
#
#   --stack NAME      only the tests marked `stack`, on that stack (newest): its set-up, then pytest
#   --also-stack NAME after everything on the primary stack, the same on that one
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

stack='' also=''
while [[ ${1:-} == --stack || ${1:-} == --also-stack ]]; do
  [[ $# -gt 1 ]] || {
    echo "usage: scripts/test.sh [--stack NAME | --also-stack NAME] [ARGUMENTS OF PYTEST]" >&2
    exit 2
  }
  if [[ $1 == --stack ]]; then stack=$2; else also=$2; fi
  shift 2
done

# A debugger needs the tests in the process that has the terminal.
processes=(--numprocesses 2 --dist loadgroup --no-loadscope-reorder)
for argument; do
  case $argument in
    -n* | --numprocesses* | --dist* | -d | --tx* | *no:xdist | --pdb | --trace) processes=() ;;
  esac
done

if [[ -n $stack ]]; then
  scripts/setup.sh --stack "$stack"
  export SPARK_DL_STACK=$stack
  # shellcheck source=scripts/env.sh
  . scripts/env.sh
  # Only the files with such tests, unless the arguments name some: collecting all takes minutes of a small machine.
  mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.stack\b' tests 2>/dev/null | sort)
  for argument; do
    if [[ -e ${argument%%::*} ]]; then files=(); fi
  done
  echo "==> pytest on the stack $stack"
  exec python -m pytest --durations=20 "${processes[@]}" -m stack "${files[@]}" "$@"
fi

scripts/setup.sh
# shellcheck source=scripts/env.sh
. scripts/env.sh

echo "==> ruff"
ruff check .
ruff format --check .
echo "==> mypy"
mypy spark_dl
mypy --config-file scripts/mypy.ini
echo "==> deptry"
deptry .
echo "==> pytest"
if [[ -z $also ]]; then exec python -m pytest --durations=20 "${processes[@]}" "$@"; fi
python -m pytest --durations=20 "${processes[@]}" "$@"
exec "$BASH" scripts/test.sh --stack "$also" "$@"
