"""What all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Ranks that are threads, in tests/training, wait for each other inside TensorFlow's own.
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "8")
os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
# Inherited by all that these tests start, so that `processes.ranks` tells them from those of a run beside this one.
os.environ["SPARK_DL_TEST_RUN"] = str(os.getpid())
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from jvm import short_lived

# Hypothesis without a clock.
settings.register_profile("steady", deadline=None, max_examples=60, database=None)
settings.load_profile("steady")
# For the sessions that docstrings, pages of the docs and programs make for themselves.
os.environ.setdefault("SPARK_SUBMIT_OPTS", short_lived())

ROOT = Path(__file__).parents[1]
FOLDERS = ["spark", "notebooks", "connect", "distributed", "equality", "hosts"]
# Docstrings of these parts of the package start sessions of their own.
SESSIONS = ["ml", "launcher"]


# The fast ones run first; where processes share the tests, they fill up what time is left.
ORDER = {name: 1.0 + place for place, name in enumerate(FOLDERS)} | dict.fromkeys(SESSIONS, 1.5)


def order_of(item: pytest.Item) -> float:
    folder, inside = item.path.parent.name, "spark_dl" in item.path.parts[len(ROOT.parts) :]
    return ORDER.get(item.path.stem if inside and folder != "ml" else folder, 0.0)


def pytest_itemcollected(item: pytest.Item) -> None:
    """The folder tells what a test needs.

    Two processes share the tests where xdist runs them: one takes those with a session in their own process, one those
    with a cluster, for each of which a process has only one; notebooks, whose sessions are in their kernels, and files
    of the other tests fill up what time is left.
    """
    folder = item.path.parent.name
    if folder in FOLDERS and item.path.is_relative_to(ROOT / "tests"):
        item.add_marker(folder)
    if hasattr(item.config, "workerinput"):
        item.add_marker(pytest.mark.xdist_group(group_of(item)))


def group_of(item: pytest.Item) -> str:
    """Tests of one group run in one process; each notebook is a group, as it has a kernel of its own."""
    folder = item.path.parent.name
    if folder == "notebooks":
        return item.name
    return "cluster" if folder in FOLDERS[2:] else "local" if order_of(item) else item.path.stem


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The fast ones first, or last where processes share them."""
    last = len(ORDER) + 1.0 if hasattr(config, "workerinput") else 0.0
    items.sort(key=lambda item: order_of(item) or last)
