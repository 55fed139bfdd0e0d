#!/usr/bin/env bash
# Minutes from a machine without an environment to a trained model: `scripts/bench/from_nothing.sh WAY DIR [WHEELS]`.
# WAY is demo (README's command, in a new clone), pip (the wheels of scripts/build_wheels.sh in a new environment) or submit
# (the same environment, packed and sent to a standalone cluster of one worker). DIR is new and gets the home directory, so
# that nothing is cached and all packages are downloaded. PYTHON is the Python of the wheels (default: python3.11).
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
way=${1:-} directory=${2:-} wheels=${3:-}
python=${PYTHON:-python3.11}
processes=()
began=0

refuse() {
  echo "usage: scripts/bench/from_nothing.sh demo|pip|submit DIR [WHEELS] ($1)" >&2
  exit 2
}

# A line of the table: what was done since the line before.
row() {
  local now=$SECONDS
  awk -v way="$way" -v step="$1" -v seconds=$((now - began)) 'BEGIN { printf "| %s | %s | %.1f |\n", way, step, seconds / 60 }' >&3
  began=$now
}

empty_home() {
  # pip's index is a setting of the machine, its cache is not.
  if [[ -z ${PIP_CONFIG_FILE:-} && -e $HOME/.config/pip/pip.conf ]]; then
    export PIP_CONFIG_FILE=$HOME/.config/pip/pip.conf
  fi
  python=$("$python" -c 'import sys; print(sys._base_executable)')
  unset XDG_CACHE_HOME PIP_CACHE_DIR SPARK_DL_CACHE SPARK_DL_STACK VIRTUAL_ENV PYTHONPATH PYSPARK_PYTHON PYSPARK_DRIVER_PYTHON
  mkdir -p -- "$directory/home"
  export HOME=$directory/home
}

install_wheels() {
  local wheel
  wheel=$(cd -- "$wheels" && compgen -G 'spark_dl-*.whl')
  "$python" -m venv "$directory/shop-env"
  "$directory/shop-env/bin/python" -m pip install --quiet -c "$wheels/constraints.txt" --find-links "$wheels" \
    --only-binary horovod "$wheels/${wheel}[cpu]" "$@"
  row "install from the index and the wheels"
}

# The project that `spark-dl new` writes, with synthetic rows.
make_project() {
  export PATH=$directory/shop-env/bin:$PATH
  cd -- "$directory"
  spark-dl new shop
  cd shop
  python sample_data.py
}

start() {
  local log=$1
  shift
  spark-class "$@" >"$directory/$log.log" 2>&1 &
  processes+=($!)
}

end_processes() {
  local process
  for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
}

by_demo() {
  git clone --quiet "$root" "$directory/clone"
  PYTHON=$python "$directory/clone/scripts/setup.sh"
  row "scripts/setup.sh, Horovod's build included"
  "$directory/clone/scripts/demo.sh"
  row "scripts/demo.sh, set up"
}

by_pip() {
  install_wheels
  make_project
  spark-dl train conf/train.yaml
  row "spark-dl train"
}

by_submit() {
  install_wheels venv-pack
  make_project
  trap end_processes EXIT
  start master org.apache.spark.deploy.master.Master --host 127.0.0.1 --port 17077 --webui-port 0
  start worker org.apache.spark.deploy.worker.Worker --cores 2 --memory 2g --work-dir "$directory/work" --webui-port 0 \
    spark://127.0.0.1:17077
  "$root/scripts/submit_train.sh" --master spark://127.0.0.1:17077 --environment "$directory/shop-env" \
    --conf spark.driver.host=127.0.0.1 --conf spark.task.cpus=1 conf/train.yaml --set "cacheDir=$directory/cache"
  row "pack, submit and train"
}

[[ $way == demo || $way == pip || $way == submit ]] || refuse "which way?"
[[ -n $directory && ! -e $directory ]] || refuse "DIR must be new"
[[ $way == demo || -d $wheels ]] || refuse "no directory of wheels"
mkdir -p -- "$directory"
directory=$(CDPATH='' cd -- "$directory" && pwd -P)
if [[ -n $wheels ]]; then wheels=$(CDPATH='' cd -- "$wheels" && pwd -P); fi
exec 3>&1 1>&2 # the table alone goes to stdout
echo '| way | step | minutes |
|---|---|---|' >&3
SECONDS=0
empty_home
"by_$way"
began=0
row all
