"""What all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Ranks that are threads, in the unit tests, wait for each other inside TensorFlow's own.
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "8")
os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder tells what a test needs; the fast ones run first."""
    folders = ["spark", "connect", "distributed", "equality", "hosts"]
    # Docstrings of these parts of the package start sessions of their own.
    order = {name: 1 + place for place, name in enumerate(folders)} | {"estimators": 1.5, "horovod_launcher": 1.5}
    for item in items:
        if item.path.parent.name in folders:
            item.add_marker(item.path.parent.name)
    items.sort(key=lambda item: order.get(item.path.parent.name, order.get(item.path.stem, 0)))
