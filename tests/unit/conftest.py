"""Settings of these tests: hypothesis without a clock, TensorFlow without noise."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Ranks that are threads wait for each other inside TensorFlow's own.
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "8")
settings.register_profile("unit", deadline=None, max_examples=60, database=None)
settings.load_profile("unit")
