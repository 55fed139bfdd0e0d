#!/usr/bin/env bash
# Builds the documentation site into docs/_build; a warning is an error. Set-up comes first. Arguments go to Sphinx.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
# shellcheck source=scripts/env.sh
. scripts/env.sh

python -m sphinx -W --keep-going -q "$@" docs docs/_build
echo "==> docs/_build/index.html"
