"""Spark ML Params of the public classes, made from the options.

`with_options` makes them at run time. `scripts/stubs.py` writes the stubs of `classifier`, `estimator` and `fitted`,
which editors and mypy read.
"""

from __future__ import annotations

from spark_dl.ml.params.classifier import ClassifierParams
from spark_dl.ml.params.estimator import EstimatorParams
from spark_dl.ml.params.fitted import FittedClassifierParams, FittedParams
from spark_dl.ml.params.option_params import OptionParams, with_options

__all__ = [
    "ClassifierParams",
    "EstimatorParams",
    "FittedClassifierParams",
    "FittedParams",
    "OptionParams",
    "with_options",
]
