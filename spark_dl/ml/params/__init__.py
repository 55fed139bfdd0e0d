"""Spark ML params from options: the Params of each public class.

Beside each of `classifier`, `estimator` and `fitted` stands a stub, which `scripts/stubs.py` writes from the options:
editors and mypy read there what `with_options` makes.
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
