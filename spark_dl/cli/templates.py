"""Commented configurations and the reference of keys, made from the declarations."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from spark_dl.cli.keys import ScoreKeys, TrainKeys, score_options, train_options
from spark_dl.cli.references import OBJECT_KEYS
from spark_dl.options import (
    ClassifierOptions,
    FittedClassifierOptions,
    FittedTaggerOptions,
    Option,
    Options,
    options_of,
)

__all__ = ["TEMPLATES", "keys_of", "reference", "rendered"]

TEMPLATES = ("train", "score")
_WIDTH = 110
_HEADS = {
    "train": "Configuration of `spark-dl train` and `spark-dl convert`.",
    "score": "Configuration of `spark-dl score` and `spark-dl evaluate`.",
}
_LEAD = "Every key, with its meaning, type and default. Remove the # before a key to set it. Paths are relative to the \
working directory. Values of type `object` are a name that Keras knows, {class_name: ..., config: {...}} of a Keras \
class, or module:name."


def keys_of(template: str) -> list[tuple[str, tuple[Option, ...]]]:
    """Return the keys of a configuration by section: the section's title, and its keys.

    Args:
        template: "train" or "score".
    """
    if template == "train":
        return [*_sections(TrainKeys, options_of(TrainKeys)), *_sections(ClassifierOptions, train_options())]
    known = options_of(FittedClassifierOptions)
    taggers = [one for one in score_options() if one not in known]
    own = _sections(ScoreKeys, options_of(ScoreKeys))
    return [*own, *_sections(FittedClassifierOptions, known), *_sections(FittedTaggerOptions, taggers)]


def rendered(template: str, values: Mapping[str, Any] | None = None, head: str = "") -> str:
    """Render a configuration in which every key is commented.

    Args:
        template: "train" or "score".
        values: The keys to set; all others are commented out, with their defaults.
        head: The first lines, in place of the general ones.
    """
    return "\n".join(_lines(template, values or {}, head or f"{_HEADS[template]}\n\n{_LEAD}")) + "\n"


def reference(option: Option) -> str:
    """Render one key: its name, type, default and meaning."""
    doc = textwrap.indent(textwrap.fill(option.doc, _WIDTH - 4), "    ")
    return f"{option.name}: {_type(option)}, default {_yaml(option.default)}\n{doc}"


def _lines(template: str, values: Mapping[str, Any], head: str) -> Iterator[str]:
    for index, paragraph in enumerate(head.split("\n\n")):
        if index:
            yield "#"
        yield from _comment(paragraph)
    for title, options in keys_of(template):
        yield from ("", f"# --- {title} " + "-" * (_WIDTH - len(title) - 7))
        for option in options:
            yield ""
            yield from _comment(f"{option.doc} ({_type(option)})")
            is_set = option.name in values
            yield f"{'' if is_set else '# '}{option.name}: {_yaml(values.get(option.name, option.default))}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False, break_long_words=False
    )


def _sections(record: type[Options], options: Sequence[Option]) -> Iterator[tuple[str, tuple[Option, ...]]]:
    """Group options by the classes that declare them, whose docstrings are the titles."""
    found: dict[type[Options], list[Option]] = {}
    for option in options:
        owner = next(cls for cls in record.__mro__ if option.field in inspect.get_annotations(cls))
        found.setdefault(owner, []).append(option)
    for owner, own in found.items():
        title = (owner.__doc__ or "").splitlines()[0].partition(";")[0].removesuffix(".")
        yield title.replace("The options", "Options").replace("`", ""), tuple(own)


def _type(option: Option) -> str:
    if option.name in OBJECT_KEYS:
        return "object"
    return option.type.removesuffix(" | None").replace(", Any]", "]").replace("dict[str]", "dict")


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
