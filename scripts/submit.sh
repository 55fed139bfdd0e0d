#!/usr/bin/env bash
# Runs `spark-dl train` or `spark-dl score` by spark-submit, with a packed environment for executors that have no packages of
# their own. scripts/submit_train.sh and scripts/submit_score.sh call it.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
command=${1:-}
master=
environment=${VIRTUAL_ENV:-${CONDA_PREFIX:-$root/.venv}}
archive=
image=
image_python=/opt/spark_dl/bin/python
settings=cpu
deploy_mode=client
extra=()      # --conf and --py-files of the command line
arguments=()  # of spark-dl
dry_run=

usage() {
  cat <<END
usage: scripts/submit_$command.sh --master URL [options] CONFIG.yaml [arguments of spark-dl $command]

Packs a Python environment, sends it to the executors and runs \`spark-dl $command\` there. The executors need Java and, for a
virtual environment, the Python that it was made with, at the same path; a conda environment brings its Python.

  --master URL         spark://HOST:PORT, yarn or k8s://URL
  --environment DIR    the environment with spark_dl; default: the active one, else .venv of this clone
  --archive FILE       the packed environment: used if it exists, else written here (default: ENVIRONMENT.tar.gz). It may be
                       a URL that executors can read, such as hdfs:///envs/spark_dl.tar.gz
  --image NAME         Kubernetes: the image of conf/docker, which has the environment; nothing is packed
  --deploy-mode MODE   client (default) or cluster
  --conf KEY=VALUE     a Spark setting; may be repeated
  --py-files FILES     your own modules
  --gpu                the settings of conf/spark-defaults-gpu.conf
  --dry-run            print the command and run nothing
END
}

die() {
  printf 'submit_%s.sh: %s\n' "$command" "$*" >&2
  exit 1
}

refuse() {
  printf 'usage: scripts/submit_%s.sh --master URL [options] CONFIG.yaml (%s)\n' "$command" "$1" >&2
  exit 2
}

parse_arguments() {
  while [[ $# -gt 0 ]]; do
    case $1 in
      --master | --environment | --archive | --image | --deploy-mode | --conf | --py-files)
        [[ $# -gt 1 ]] || refuse "$1 needs a value"
        case $1 in
          --master) master=$2 ;;
          --environment) environment=$2 ;;
          --archive) archive=$2 ;;
          --image) image=$2 ;;
          --deploy-mode) deploy_mode=$2 ;;
          *) extra+=("$1" "$2") ;;
        esac
        shift
        ;;
      --gpu) settings=gpu ;;
      --dry-run) dry_run=yes ;;
      -h | --help)
        usage
        exit 0
        ;;
      -*) refuse "unknown argument: $1; those of spark-dl follow CONFIG.yaml" ;;
      *)
        arguments=("$@")
        break
        ;;
    esac
    shift
  done
  [[ ${#arguments[@]} -gt 0 ]] || refuse "no CONFIG.yaml"
  case $master in
    spark://* | yarn) [[ -z $image ]] || refuse "--image is for Kubernetes" ;;
    k8s://*) [[ -n $image ]] || refuse "Kubernetes needs --image, see conf/docker" ;;
    '') refuse "no --master" ;;
    *) refuse "--master is spark://HOST:PORT, yarn or k8s://URL, not $master" ;;
  esac
  case $deploy_mode in
    client) ;;
    cluster) [[ $master != spark://* ]] || refuse "Spark's standalone clusters run Python in client mode only" ;;
    *) refuse "--deploy-mode is client or cluster" ;;
  esac
}

# What executors import must be in the environment: an editable install only refers to a clone.
check_environment() {
  [[ -x $environment/bin/python ]] || die "there is no Python environment $environment: give --environment"
  environment=$(CDPATH='' cd -- "$environment" && pwd -P)
  [[ -n ${archive:-} ]] || archive=$environment.tar.gz
  [[ -n $image || $archive != *,* ]] ||
    die "Spark can't send the archive $archive, since its path has a comma: give --archive another one"
  program=$(cd / && unset PYTHONPATH && "$environment/bin/python" -c '
import importlib.util
print(importlib.util.find_spec("spark_dl").submodule_search_locations[0] + "/cli/__main__.py")' 2>/dev/null) ||
    die "$environment has no spark_dl: install its wheel there (docs/guides/installing.md)"
  [[ $program == "$environment"/* ]] ||
    die "spark_dl of $environment is a clone's, $program: install its wheel there (docs/guides/installing.md)"
}

# Before the environment is packed, which takes minutes. In cluster mode Spark also takes a URL.
check_configuration() {
  if [[ $deploy_mode == cluster && ${arguments[0]} == *:/* ]]; then return; fi
  [[ -f ${arguments[0]} && -r ${arguments[0]} ]] || die "there is no configuration ${arguments[0]}, or it can't be read"
}

# Spark splits the list of archives at commas, and reads each as a URL.
archive_url() {
  if [[ $archive == *://* ]]; then
    echo "$archive"
    return
  fi
  "$environment/bin/python" -I -c 'import os, sys, urllib.parse
print("file://" + urllib.parse.quote(os.path.abspath(sys.argv[1])))' "$archive"
}

pack() {
  local packer=venv-pack
  if [[ -d $environment/conda-meta ]]; then packer=conda-pack; fi
  if [[ $archive == *://* || -e $archive ]]; then return; fi
  if [[ -x $environment/bin/$packer ]]; then
    packer=$environment/bin/$packer
  elif ! command -v "$packer" >/dev/null; then
    die "$packer isn't installed: pip install $packer"
  fi
  printf '==> Packing %s into %s\n' "$environment" "$archive" >&2
  "$packer" --prefix "$environment" --output "$archive" --quiet
}

# As --conf, since --properties-file would replace the cluster's own spark-defaults.conf.
list_settings() {
  local key value
  while read -r key value || [[ -n $key ]]; do
    if [[ -n $key && $key != \#* ]]; then printf '%s\n' --conf "$key=$value"; fi
  done <"$root/conf/spark-defaults-$settings.conf"
}

build_command() {
  local words url
  mapfile -t words < <(list_settings)
  if [[ -z $image ]]; then url=$(archive_url); fi
  submit=(spark-submit --master "$master" --deploy-mode "$deploy_mode" "${words[@]}")
  case $master in
    k8s://*)
      if [[ $deploy_mode == cluster ]]; then program=local://${image_python%/bin/python}/spark-dl.py; fi
      submit+=(--conf "spark.kubernetes.container.image=$image" --conf "spark.pyspark.python=$image_python")
      ;;
    *)
      submit+=(--archives "$url#environment" --conf spark.pyspark.python=./environment/bin/python)
      ;;
  esac
  if [[ $deploy_mode == client ]]; then
    submit+=(--conf "spark.pyspark.driver.python=$environment/bin/python")
  else
    # The driver runs in the cluster, too, and finds the configuration in its working directory.
    if [[ $master == yarn ]]; then submit+=(--conf spark.yarn.appMasterEnv.PYSPARK_PYTHON=./environment/bin/python); fi
    submit+=(--files "${arguments[0]}")
    arguments[0]=$(basename -- "${arguments[0]}")
  fi
  submit+=("${extra[@]}" "$program" "$command" "${arguments[@]}")
}

main() {
  local program='' submit=()
  [[ $command == train || $command == score ]] || {
    echo 'usage: scripts/submit.sh train|score ...' >&2
    exit 2
  }
  parse_arguments "${@:2}"
  if [[ -z $dry_run ]]; then check_configuration; fi
  if [[ $master != k8s://* || $deploy_mode == client ]]; then check_environment; fi
  build_command
  if [[ -n $dry_run ]]; then
    printf '%q ' "${submit[@]}" | sed 's/ $/\n/'
    return
  fi
  if [[ -z $image ]]; then pack; fi
  # Else PySpark takes these for the executors' Python, before the settings above.
  unset PYSPARK_PYTHON PYSPARK_DRIVER_PYTHON PYTHONPATH
  if ! command -v spark-submit >/dev/null; then PATH=$environment/bin:$PATH; fi
  exec "${submit[@]}"
}

main "$@"
