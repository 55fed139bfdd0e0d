# shellcheck shell=bash
# To be sourced: puts .venv first, and gives Spark its Python and, where set-up had to bring one, its Java.
# SPARK_DL_STACK=newest . scripts/env.sh takes .venv-newest instead (scripts/setup.sh --stack newest makes it).
spark_dl_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")/.." && pwd -P)
case ${SPARK_DL_STACK:-primary} in
  primary) spark_dl_venv=$spark_dl_root/.venv ;;
  *) spark_dl_venv=$spark_dl_root/.venv-$SPARK_DL_STACK ;;
esac
if [ -x "$spark_dl_venv/bin/python" ]; then
  case :$PATH: in
    :"$spark_dl_venv/bin":*) ;;
    *) export PATH="$spark_dl_venv/bin:$PATH" ;;
  esac
  # The Java that another stack has brought isn't this one's.
  case ${JAVA_HOME:-} in
    "$spark_dl_root"/.venv*/jdk) unset JAVA_HOME ;;
  esac
  if [ -x "$spark_dl_venv/jdk/bin/java" ]; then export JAVA_HOME="$spark_dl_venv/jdk"; fi
  export PYSPARK_PYTHON="$spark_dl_venv/bin/python"
  export PYSPARK_DRIVER_PYTHON="$PYSPARK_PYTHON"
else
  echo "$spark_dl_venv is missing: run scripts/setup.sh --stack ${SPARK_DL_STACK:-primary} first" >&2
fi
unset spark_dl_root spark_dl_venv
