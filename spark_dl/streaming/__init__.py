"""Models that learn from a stream: each micro-batch is first predicted, then trained on.

`StreamTrainer` is the function of `foreachBatch`. `ReplayBuffer`, `Champion` and `Adwin` configure what it replays, how
it registers models, and how it detects drift.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spark_dl.streaming.champion import Champion
    from spark_dl.streaming.drift import Adwin
    from spark_dl.streaming.replay import ReplayBuffer
    from spark_dl.streaming.trainer import StreamTrainer

_PUBLIC = {
    "Adwin": "spark_dl.streaming.drift",
    "Champion": "spark_dl.streaming.champion",
    "ReplayBuffer": "spark_dl.streaming.replay",
    "StreamTrainer": "spark_dl.streaming.trainer",
}

__all__ = ["Adwin", "Champion", "ReplayBuffer", "StreamTrainer"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
