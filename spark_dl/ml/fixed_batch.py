"""Check of saved models that accept only one batch size: earlier releases could fit and save them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from spark_dl.train.model.archive import config_text

__all__ = ["check_saved_batch"]

# Only models whose config matches need to be loaded for the check.
_FIXED = re.compile(r'"stateful": true|"batch_(input_)?shape": \[\d')


def check_saved_batch(content: bytes, load: Callable[[], Any]) -> None:
    """Check on the driver, before any Spark job, that a fitted model takes batches of any size.

    Args:
        content: The model's `.keras` bytes.
        load: Returns the Keras model.

    Raises:
        ModelError: The model keeps a state between batches, or accepts only one batch size.
    """
    if _FIXED.search(config_text(content)):
        from spark_dl.train.model.batch_size import check_any_batch, check_stateless

        model = load()
        check_stateless(model)
        check_any_batch(model)
