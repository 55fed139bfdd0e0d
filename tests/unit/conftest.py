"""Settings of these tests: hypothesis without a clock, TensorFlow without noise."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
settings.register_profile("unit", deadline=None, max_examples=60, database=None)
settings.load_profile("unit")
