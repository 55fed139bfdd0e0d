"""The class path of version 0.1; see `ml/regressor.py`."""

from spark_dl.ml.regressor import KerasRegressor, KerasRegressorModel

__all__ = ["KerasRegressor", "KerasRegressorModel"]
