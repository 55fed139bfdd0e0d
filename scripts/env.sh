# shellcheck shell=bash
# To be sourced: puts .venv first, and gives Spark its Python and, where set-up had to bring one, its Java.
spark_dl_venv=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]:-$0}")/.." && pwd -P)/.venv
case :$PATH: in
  :"$spark_dl_venv/bin":*) ;;
  *) export PATH="$spark_dl_venv/bin:$PATH" ;;
esac
if [ -x "$spark_dl_venv/jdk/bin/java" ]; then export JAVA_HOME="$spark_dl_venv/jdk"; fi
export PYSPARK_PYTHON="$spark_dl_venv/bin/python"
export PYSPARK_DRIVER_PYTHON="$PYSPARK_PYTHON"
unset spark_dl_venv
