#!/usr/bin/env bash
# Makes a directory of wheels that installs spark_dl on other machines without a compiler: spark_dl's wheel, the Horovod wheel
# that set-up built, and the pins. Prints the command that installs them, and runs that command in an empty environment.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
stack=${SPARK_DL_STACK:-primary}
variant=--cpu
all=   # set: every pinned wheel, so that nothing is downloaded
directory=
work=

usage() {
  cat <<'END'
usage: scripts/build_wheels.sh [--stack NAME] [--gpu] [--all] DIRECTORY

Makes DIRECTORY with the wheels of spark_dl and Horovod and the pins of the stack, prints the pip command that installs
them, and checks it in an empty environment.

  --stack NAME  the stack, as of scripts/setup.sh
  --gpu         Horovod with NCCL, TensorFlow with CUDA; wants what scripts/setup.sh --gpu wants
  --all         the wheels of all other packages, too: for machines that reach no package index

The machines must have the Python, the processor and a glibc at least as new as this one's.
END
}

say() { printf '==> %s\n' "$*"; }

die() {
  printf 'build_wheels.sh: %s\n' "$*" >&2
  exit 1
}

refuse() {
  echo "usage: scripts/build_wheels.sh [--stack NAME] [--gpu] [--all] DIRECTORY ($1)" >&2
  exit 2
}

# A directory that isn't complete must not be taken for one that is; all in it is ours, as it was empty.
at_exit() {
  local status=$?
  rm -rf -- "$work"
  if [[ $status -ne 0 ]]; then find "$directory" -mindepth 1 -delete; fi
}

parse_arguments() {
  while [[ $# -gt 0 ]]; do
    case $1 in
      --gpu) variant=--gpu ;;
      --all) all=yes ;;
      --stack)
        [[ $# -gt 1 ]] || refuse "--stack needs a name"
        stack=$2
        shift
        ;;
      --stack=*) stack=${1#*=} ;;
      -h | --help)
        usage
        exit 0
        ;;
      -*) refuse "unknown argument: $1" ;;
      *)
        [[ -z $directory ]] || refuse "more than one directory: $1"
        directory=$1
        ;;
    esac
    shift
  done
  [[ -n $directory ]] || refuse "no directory"
}

# Wheels of another build in the directory would be installed with these.
check_directory() {
  mkdir -p -- "$directory" 2>/dev/null && [[ -w $directory ]] || die "cannot write to $directory"
  directory=$(CDPATH='' cd -- "$directory" && pwd -P)
  [[ -z $(ls -A -- "$directory") ]] || die "$directory is not empty"
}

name_stack() {
  case $stack in
    primary) constraints=$root/conf/constraints.txt venv=$root/.venv ;;
    *) constraints=$root/conf/constraints-$stack.txt venv=$root/.venv-$stack ;;
  esac
}

# The Horovod wheel that set-up built is in its cache; where that was emptied, another set-up builds it again.
copy_horovod() {
  local wheels
  wheels=$(cat -- "$venv/.horovod-wheel")
  if ! compgen -G "$wheels/*.whl" >/dev/null; then
    rm -f -- "$venv/.set-up"
    "$root/scripts/setup.sh" --stack "$stack" "$variant"
  fi
  cp -- "$wheels"/*.whl "$directory"
}

# Built from a copy, since setuptools writes into the sources.
build_spark_dl() {
  mkdir "$work/source"
  cp -R -- "$root"/{pyproject.toml,setup.py,README.md,LICENSE,spark_dl} "$work/source"
  "$venv/bin/python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$directory" "$work/source" \
    >"$work/build.log" 2>&1 || {
    cat "$work/build.log" >&2
    die "the build of spark_dl failed"
  }
}

# The requirement is the wheel's path, so that no index is asked for spark_dl; Horovod is never built from an index's source.
install_options() {
  local name=$1 extra=${variant#--} wheel
  wheel=$(cd -- "$directory" && compgen -G 'spark_dl-*.whl')
  printf '%s\n' -c "$name/constraints.txt" --find-links "$name" --only-binary horovod
  if [[ -n $all ]]; then echo --no-index; fi
  printf '%s\n' "$name/${wheel}[$extra]"
}

collect_all() {
  local options
  mapfile -t options < <(all='' && install_options "$directory")
  say "Collecting all pinned wheels"
  "$venv/bin/python" -m pip wheel --quiet --no-build-isolation --wheel-dir "$directory" "${options[@]}"
}

check() {
  local options
  mapfile -t options < <(install_options "$directory")
  say "Checking the command in an empty environment"
  "$venv/bin/python" -m venv "$work/empty"
  "$work/empty/bin/python" -m pip install --quiet "${options[@]}"
  "$work/empty/bin/python" -m pip check
  (cd -- "$work" && "$work/empty/bin/python" -c '
import horovod.tensorflow, spark_dl
from spark_dl.launch.horovod_build import horovod_fault
assert not horovod_fault(), horovod_fault()
print("spark_dl", spark_dl.__version__, "with Horovod", horovod.__version__)')
}

main() {
  local options
  parse_arguments "$@"
  check_directory
  # Would bring the checkout into the empty environment.
  unset PYTHONPATH PYTHONHOME
  export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1
  "$root/scripts/setup.sh" --stack "$stack" "$variant"
  name_stack
  work=$(mktemp -d)
  trap at_exit EXIT
  copy_horovod
  build_spark_dl
  cp -- "$constraints" "$directory/constraints.txt"
  if [[ -n $all ]]; then collect_all; fi
  check
  mapfile -t options < <(install_options DIRECTORY)
  say "Ready: $directory. To install, with DIRECTORY as it is called there:"
  printf 'python -m pip install'
  printf " '%s'" "${options[@]}"
  printf '\n'
}

main "$@"
