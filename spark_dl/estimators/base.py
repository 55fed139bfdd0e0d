"""The class path of version 0.1; see `ml/estimator.py`."""

from spark_dl.ml.estimator import KerasEstimator

__all__ = ["KerasEstimator"]
