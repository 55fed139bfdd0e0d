#!/usr/bin/env bash
# The newest stack on which horovod.spark.keras.KerasEstimator trains (Python 3.10, TensorFlow 2.10, Spark 3.3), built in
# the directory $1 for fit.py: PYTHON310=/path/to/python3.10 scripts/bench/peer.sh DIR; then PEER_PYTHON=DIR/bin/python.
# It needs a C++ compiler, a Java 17 on the PATH, and some minutes.
set -euo pipefail

dir=${1:?usage: peer.sh DIR}
"${PYTHON310:-python3.10}" -m venv "$dir"
PATH=$(cd -- "$dir/bin" && pwd):$PATH
export PATH
pip install -q 'setuptools<70' wheel 'cmake<4' cffi cloudpickle psutil pyyaml packaging
pip install -q tensorflow-cpu==2.10.1 pyspark==3.3.4 pyarrow==8.0.0 petastorm==0.12.1 'pandas<2' 'numpy<1.24' fsspec
HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITHOUT_MPI=1 \
  HOROVOD_WITH_GLOO=1 HOROVOD_CPU_OPERATIONS=GLOO MAKEFLAGS=-j2 \
  pip install -q --no-build-isolation --no-deps --no-binary horovod horovod==0.28.1
python -c 'import horovod.spark.keras; print("The peer is ready.")'
