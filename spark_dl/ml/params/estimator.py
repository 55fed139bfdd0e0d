"""The Params of the estimators. Editors and mypy read the stub beside this file, which `scripts/stubs.py` writes."""

from __future__ import annotations

from spark_dl.ml.params.option_params import OptionParams, with_options
from spark_dl.options import EstimatorOptions

__all__ = ["EstimatorParams"]


@with_options(EstimatorOptions)
class EstimatorParams(OptionParams):
    """Params of `KerasEstimator` and `KerasRegressor`."""
