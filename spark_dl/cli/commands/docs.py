"""`spark-dl docs`: print the commented configurations, or what keys mean."""

from __future__ import annotations

import argparse

from spark_dl.cli.command import Command
from spark_dl.cli.output import write_result
from spark_dl.cli.templates import TEMPLATES, keys_of, reference, rendered
from spark_dl.errors import OptionError, explain, hint
from spark_dl.options import Option

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "topics",
        nargs="*",
        metavar="TOPIC",
        help="'train' or 'score' for the whole configuration, as a file to start from; or a key; all keys without it",
    )


def _run(given: argparse.Namespace) -> int:
    known: dict[str, list[Option]] = {}
    for template in TEMPLATES:
        for _, options in keys_of(template):
            for option in options:
                known.setdefault(option.name, []).append(option)
    texts = {topic: _text(topic, known) for topic in given.topics or sorted(known)}
    write_result("docs", "\n\n".join(texts.values()), texts, as_json=given.log_json)
    return 0


def _text(topic: str, known: dict[str, list[Option]]) -> str:
    if topic in TEMPLATES:
        return rendered(topic).removesuffix("\n")
    if topic not in known:
        fix = hint(topic, [*known, *TEMPLATES])
        raise OptionError(explain(f"There is no key {topic!r}.", expected="a key", received=topic, fix=fix))
    # A key may mean one thing in a configuration for training, and another in one for scoring.
    return "\n".join(dict.fromkeys(reference(option) for option in known[topic]))


COMMAND = Command("docs", "print what the keys of configurations mean", _add_arguments, _run)
