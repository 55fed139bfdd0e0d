"""Spark ML Params of the public classes, made from the options.

`with_options` makes them at run time. `scripts/stubs.py` writes the stubs of `classifier`, `estimator`, `fitted` and
`tagger`, which editors and mypy read.
"""

from __future__ import annotations

from spark_dl.ml.params.classifier import ClassifierParams
from spark_dl.ml.params.estimator import EstimatorParams
from spark_dl.ml.params.fitted import FittedClassifierParams, FittedParams, FittedTaggerParams
from spark_dl.ml.params.option_params import OptionParams, with_options
from spark_dl.ml.params.tagger import TaggerParams

__all__ = [
    "ClassifierParams",
    "EstimatorParams",
    "FittedClassifierParams",
    "FittedParams",
    "FittedTaggerParams",
    "OptionParams",
    "TaggerParams",
    "with_options",
]
