"""The commands of `spark-dl`: one file each, and its line in this table."""

from __future__ import annotations

from spark_dl.cli.commands import clean, convert, docs, doctor, evaluate, new, path, score, train, ui

__all__ = ["COMMANDS"]

COMMANDS = (
    doctor.COMMAND,
    train.COMMAND,
    score.COMMAND,
    evaluate.COMMAND,
    convert.COMMAND,
    clean.COMMAND,
    ui.COMMAND,
    docs.COMMAND,
    path.COMMAND,
    new.COMMAND,
)
