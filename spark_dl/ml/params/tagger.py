"""The Params of the tagger. Editors and mypy read the stub beside this file, which `scripts/stubs.py` writes."""

from __future__ import annotations

from spark_dl.ml.params.estimator import EstimatorParams
from spark_dl.ml.params.option_params import with_options
from spark_dl.options import TaggerOptions

__all__ = ["TaggerParams"]


@with_options(TaggerOptions)
class TaggerParams(EstimatorParams):
    """Params of `KerasTagger`."""
