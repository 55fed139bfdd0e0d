"""Output of the commands: results as text or JSON lines on stdout, and log records as JSON lines."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from spark_dl.redaction import redact, redact_value

__all__ = ["json_log", "metrics_text", "write_result"]

# Loggers whose records become JSON lines; the second has Python's warnings.
_LOGGERS = ("spark_dl", "py.warnings")
_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def write_result(event: str, text: str, fields: Mapping[str, Any], *, as_json: bool) -> None:
    """Write the result of a command to stdout, without credentials.

    Args:
        event: The name of the result in JSON, such as "trained".
        text: The result for people.
        fields: The result for programs.
        as_json: Whether to write the fields as a JSON line in place of the text.
    """
    line = _json_line(time.time(), event, fields) if as_json else redact(text)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Format metrics for people.

    >>> metrics_text({"loss": 0.51234, "accuracy": 1.0})
    'loss=0.5123  accuracy=1.0000'
    """
    return "  ".join(f"{name}={value:.4f}" for name, value in metrics.items())


@contextlib.contextmanager
def json_log() -> Iterator[None]:
    """Write the package's log records and Python's warnings as JSON lines to stdout while the `with` lasts."""
    handler = _JsonHandler()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


class _JsonHandler(logging.Handler):
    """Handler that writes a record's message and its extra fields, such as the metrics of an epoch."""

    def emit(self, record: logging.LogRecord) -> None:
        extra = {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
        event = extra.pop("event", record.levelname.lower())
        line = _json_line(record.created, event, {"message": record.getMessage().strip(), **extra})
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _json_line(seconds: float, event: str, fields: Mapping[str, Any]) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    return json.dumps(_finite(redact_value({"time": stamp, "event": event, **fields})), default=str)


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value
