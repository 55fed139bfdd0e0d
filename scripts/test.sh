#!/usr/bin/env bash
# Every check there is: set-up, lint, format, types, tests. Stops at the first that fails. Arguments go to pytest.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
# shellcheck source=scripts/env.sh
. scripts/env.sh

echo "==> ruff"
ruff check .
ruff format --check .
echo "==> mypy"
mypy spark_dl
echo "==> pytest"
exec python -m pytest "$@"
