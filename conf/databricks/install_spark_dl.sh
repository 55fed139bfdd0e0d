#!/usr/bin/env bash
# Init script of a Databricks cluster: installs spark_dl from a folder of wheels in a Volume, as scripts/build_wheels.sh makes
# it, into the runtime's own Python. It runs on each node; where it fails, the cluster doesn't start, and its log says why.
#
#   SPARK_DL_WHEELS  the folder (spark_env_vars of the cluster), such as /Volumes/main/default/spark_dl/wheels
#   SPARK_DL_EXTRA   cpu (default) or gpu
#   SPARK_DL_PYTHON  the Python to install into; the runtime's by default
set -euo pipefail

wheels=${SPARK_DL_WHEELS:-}
extra=${SPARK_DL_EXTRA:-cpu}
python=${SPARK_DL_PYTHON:-/databricks/python/bin/python}
work=

die() {
  printf 'install_spark_dl.sh: %s\n' "$*" >&2
  exit 1
}

# Prints the one wheel of a package; those of several builds would be mixed.
wheel_of() {
  local found
  mapfile -t found < <(compgen -G "$wheels/$1-*.whl" || true)
  [[ ${#found[@]} -eq 1 ]] || die "$wheels has ${#found[@]} wheels of $1, expected 1: make it with scripts/build_wheels.sh"
  printf '%s\n' "${found[0]}"
}

check() {
  local horovod=$1 tag
  tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
  [[ $horovod == *"-$tag-"* ]] ||
    die "$(basename -- "$horovod") isn't for this runtime's Python ($tag): run scripts/build_wheels.sh with that Python"
}

# What spark_dl and its two wheels without binaries of an index require, without PySpark: the runtime's has no package that pip
# knows of, and another one would hide it. What the runtime has of NumPy and pyarrow stays, since its other packages were built with it.
list_requirements() {
  "$python" - "$extra" "$work" <<'END'
import importlib.metadata as metadata
import pathlib
import sys

from pip._vendor.packaging.requirements import Requirement

extra, work = sys.argv[1], pathlib.Path(sys.argv[2])
own = ("spark-dl", "horovod", "petastorm")
wanted = []
for name in own:
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra if name == own[0] else ""})
        if applies and requirement.name.lower().replace("_", "-") not in ("pyspark", *own):
            requirement.marker = None
            wanted.append(str(requirement))
kept = []
for name in ("numpy", "pyarrow"):
    try:
        kept.append(f"{name}=={metadata.version(name)}")
    except metadata.PackageNotFoundError:
        pass
(work / "requirements.txt").write_text("\n".join(wanted) + "\n")
(work / "kept.txt").write_text("\n".join(kept) + "\n")
END
}

main() {
  local spark_dl horovod index=()
  [[ $extra == cpu || $extra == gpu ]] || die "SPARK_DL_EXTRA=$extra: cpu or gpu is expected"
  [[ -n $wheels ]] || die "SPARK_DL_WHEELS isn't set: set it in the cluster's spark_env_vars to the folder of wheels"
  [[ -d $wheels ]] || die "there is no folder $wheels, or this cluster may not read the Volume"
  [[ -x $python ]] || die "there is no Python $python"
  spark_dl=$(wheel_of spark_dl)
  horovod=$(wheel_of horovod)
  check "$horovod"
  # A folder that has TensorFlow was made with --all: nothing is downloaded.
  if compgen -G "$wheels/tensorflow*.whl" >/dev/null; then index=(--no-index); fi
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
  work=$(mktemp -d)
  trap 'rm -rf -- "$work"' EXIT
  "$python" -m pip install --quiet --no-deps --force-reinstall "$spark_dl" "$horovod"
  # --no-deps: Petastorm requires PySpark. setuptools: Petastorm imports pkg_resources.
  "$python" -m pip install --quiet --no-deps "${index[@]}" --find-links "$wheels" 'petastorm==0.13.1' 'setuptools<70'
  list_requirements
  # Horovod works with the TensorFlow that it was built with only, not with one of the runtime's that is within the range.
  { grep -E '^tensorflow(-cpu)?==' "$wheels/constraints.txt" || true; } 2>/dev/null >>"$work/kept.txt"
  "$python" -m pip install --quiet "${index[@]}" --find-links "$wheels" -c "$work/kept.txt" -r "$work/requirements.txt"
  (cd -- "$work" && "$python" -c '
import spark_dl
from spark_dl.launch.horovod_build import horovod_fault
assert not horovod_fault(), horovod_fault()
print("install_spark_dl.sh: spark_dl", spark_dl.__version__, "in", spark_dl.__path__[0])')
}

main "$@"
