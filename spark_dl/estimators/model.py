"""The class path of version 0.1; see `ml/model.py`."""

from spark_dl.ml.model import KerasModel

__all__ = ["KerasModel"]
