"""The class path of version 0.1; see `ml/classifier.py`."""

from spark_dl.ml.classifier import KerasClassifier, KerasClassifierModel

__all__ = ["KerasClassifier", "KerasClassifierModel"]
