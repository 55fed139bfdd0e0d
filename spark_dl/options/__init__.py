"""Declarations of all options: fields of frozen dataclasses, each with its type, default, doc and check.

Spark Params with their setters, the type stubs, the options of launching and of ranks, and the comparison of resumed
fits derive from these records. Code reads `options.batch_size`; users write `batchSize`.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable

from spark_dl.errors import OptionError, explain, hint
from spark_dl.options.cluster import ClusterOptions, LaunchOptions
from spark_dl.options.data import ColumnOptions, DataOptions
from spark_dl.options.fields import Option, Options, option, options_of
from spark_dl.options.model import ModelOptions
from spark_dl.options.records import (
    ClassifierOptions,
    ClassWeightOptions,
    EstimatorOptions,
    FittedClassifierOptions,
    FittedOptions,
    FittedTaggerOptions,
    TaggerOptions,
)
from spark_dl.options.scoring import ClassScoringOptions, ProbabilityOptions, ScoringOptions, TagScoringOptions
from spark_dl.options.storage import FileSystemOptions
from spark_dl.options.tracking import TrackingOptions
from spark_dl.options.training import TrainingOptions

__all__ = [
    "ClassScoringOptions",
    "ClassWeightOptions",
    "ClassifierOptions",
    "ClusterOptions",
    "ColumnOptions",
    "DataOptions",
    "EstimatorOptions",
    "FileSystemOptions",
    "FittedClassifierOptions",
    "FittedOptions",
    "FittedTaggerOptions",
    "LaunchOptions",
    "ModelOptions",
    "Option",
    "Options",
    "ProbabilityOptions",
    "ScoringOptions",
    "TagScoringOptions",
    "TaggerOptions",
    "TrackingOptions",
    "TrainingOptions",
    "all_options",
    "declared",
    "option",
    "options_of",
]


def all_options() -> list[Option]:
    """Return all declared options, each once."""
    records = (ClassifierOptions, FittedClassifierOptions, TaggerOptions, FittedTaggerOptions)
    return list(dict.fromkeys(option for record in records for option in options_of(record)))


def declared(name: str) -> Option:
    """Return an option by its public name.

    Args:
        name: The public name, in camelCase.

    Raises:
        OptionError: There is no such option.
    """
    named = {option.name: option for option in all_options()}
    if name not in named:
        raise OptionError(
            explain(
                f"There is no option {name!r}.", expected="the name of an option", received=name, fix=hint(name, named)
            )
        )
    return named[name]


def _by_name(option: Option) -> tuple[Callable[[str], Option], tuple[str]]:
    return declared, (option.name,)


copyreg.pickle(Option, _by_name)  # checks may be nested functions, which pickle refuses
