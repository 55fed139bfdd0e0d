"""The Params of fitted models. Editors and mypy read the stub beside this file, which `scripts/stubs.py` writes."""

from __future__ import annotations

from spark_dl.ml.params.option_params import OptionParams, with_options
from spark_dl.options import FittedClassifierOptions, FittedOptions, FittedTaggerOptions

__all__ = ["FittedClassifierParams", "FittedParams", "FittedTaggerParams"]


@with_options(FittedOptions)
class FittedParams(OptionParams):
    """Params of `KerasModel` and `KerasRegressorModel`."""


@with_options(FittedClassifierOptions)
class FittedClassifierParams(FittedParams):
    """Params of `KerasClassifierModel`."""


@with_options(FittedTaggerOptions)
class FittedTaggerParams(FittedParams):
    """Params of `KerasTaggerModel`."""
