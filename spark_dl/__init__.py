"""Deep learning inside Spark ML: Horovod-distributed Keras training on DataFrames.

Public names are imported on first use: `import spark_dl` loads none of TensorFlow, Horovod, Petastorm, MLflow or
PySpark.

The loggers are `spark_dl.*`: progress at INFO, recovered failures at WARNING.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spark_dl.diagnosis import doctor
    from spark_dl.first_model import suggest
    from spark_dl.fit.converted import ConvertedData, convert
    from spark_dl.launcher import HorovodLauncher, autolog
    from spark_dl.ml.classifier import KerasClassifier, KerasClassifierModel
    from spark_dl.ml.estimator import KerasEstimator
    from spark_dl.ml.evaluation import evaluate
    from spark_dl.ml.model import KerasModel
    from spark_dl.ml.regressor import KerasRegressor, KerasRegressorModel
    from spark_dl.ml.tagger import KerasTagger, KerasTaggerModel
    from spark_dl.ml.token_evaluator import TokenEvaluator
    from spark_dl.quiet import quiet_start

__version__ = "0.2.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # quiet unless the application configures logging

_PUBLIC = {
    "ConvertedData": "spark_dl.fit.converted",
    "HorovodLauncher": "spark_dl.launcher",
    "KerasClassifier": "spark_dl.ml.classifier",
    "KerasClassifierModel": "spark_dl.ml.classifier",
    "KerasEstimator": "spark_dl.ml.estimator",
    "KerasModel": "spark_dl.ml.model",
    "KerasRegressor": "spark_dl.ml.regressor",
    "KerasRegressorModel": "spark_dl.ml.regressor",
    "KerasTagger": "spark_dl.ml.tagger",
    "KerasTaggerModel": "spark_dl.ml.tagger",
    "TokenEvaluator": "spark_dl.ml.token_evaluator",
    "autolog": "spark_dl.launcher",
    "convert": "spark_dl.fit.converted",
    "doctor": "spark_dl.diagnosis",
    "evaluate": "spark_dl.ml.evaluation",
    "quiet_start": "spark_dl.quiet",
    "suggest": "spark_dl.first_model",
}

__all__ = [
    "ConvertedData",
    "HorovodLauncher",
    "KerasClassifier",
    "KerasClassifierModel",
    "KerasEstimator",
    "KerasModel",
    "KerasRegressor",
    "KerasRegressorModel",
    "KerasTagger",
    "KerasTaggerModel",
    "TokenEvaluator",
    "autolog",
    "convert",
    "doctor",
    "evaluate",
    "quiet_start",
    "suggest",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
