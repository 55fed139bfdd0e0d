#!/usr/bin/env bash
# Builds the sdist and the wheel of the last commit into dist/, checks them with twine, and imports the wheel in an
# empty environment without dependencies. Uploads nothing. PYTHON names the Python (default: python3).
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

die() {
  printf 'release.sh: %s\n' "$*" >&2
  exit 1
}

# Set by env.sh or the caller: would bring the checkout into the empty environment.
unset PYTHONPATH PYTHONHOME

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' spark_dl/__init__.py)
[[ -n $version ]] || die "spark_dl/__init__.py has no __version__"
grep -qE "^## \[${version//./\\.}\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
  die "CHANGELOG.md has no dated section [$version]"
[[ -z $(git status --porcelain) ]] || die "there are changes that aren't committed: git status"

echo "==> Installing the build tools"
"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet --disable-pip-version-check -c conf/constraints.txt build setuptools twine wheel

echo "==> Building spark_dl $version"
mkdir "$work/source"
git archive HEAD | tar -x -C "$work/source"
"$work/tools/bin/python" -m build --no-isolation --outdir "$work/dist" "$work/source" >"$work/build.log" 2>&1 || {
  cat "$work/build.log" >&2
  die "the build failed"
}
wheel=$work/dist/spark_dl-$version-py3-none-any.whl
sdist=$work/dist/spark_dl-$version.tar.gz
[[ -f $wheel && -f $sdist ]] || die "expected ${wheel##*/} and ${sdist##*/}, got: $(ls "$work/dist")"

echo "==> Checking the archives"
"$work/tools/bin/twine" check --strict "$sdist" "$wheel"

echo "==> Importing the wheel in an empty environment"
"$python" -m venv "$work/empty"
"$work/empty/bin/pip" install --quiet --disable-pip-version-check --no-deps "$wheel"
imported=$(cd "$work" && "$work/empty/bin/python" -c 'import spark_dl; print(spark_dl.__version__)')
[[ $imported == "$version" ]] || die "the wheel's version is $imported, not $version"
echo "spark_dl $imported"

mkdir -p dist
mv -f -- "$sdist" "$wheel" dist/
echo "==> Ready: dist/${sdist##*/} dist/${wheel##*/}"
