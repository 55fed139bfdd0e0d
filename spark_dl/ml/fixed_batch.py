"""Refuse to score a saved model that takes batches of one size only: fit refuses it, an earlier release didn't."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from spark_dl.train.model.archive import config_text

__all__ = ["check_saved_batch"]

# In the config of a model that may be such a one; others needn't be loaded.
_FIXED = re.compile(r'"stateful": true|"batch_(input_)?shape": \[\d')


def check_saved_batch(content: bytes, load: Callable[[], Any]) -> None:
    """Check a fitted model on the driver, before any job.

    Args:
        content: The model's `.keras` bytes.
        load: Gives the Keras model.

    Raises:
        ModelError: It hands a state from batch to batch, or takes batches of one size only.
    """
    if _FIXED.search(config_text(content)):
        from spark_dl.train.model.batch_size import check_any_batch, check_stateless

        model = load()
        check_stateless(model)
        check_any_batch(model)
