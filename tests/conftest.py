"""What all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder tells what a test needs; the fast ones run first."""
    order = {"unit": 0, "spark": 1, "distributed": 2}
    for item in items:
        tier = item.path.relative_to(Path(__file__).parent).parts[0]
        if tier in ("spark", "distributed"):
            item.add_marker(tier)
    items.sort(key=lambda item: order.get(item.path.relative_to(Path(__file__).parent).parts[0], 0))
