"""The Optuna study of a search: opened by name, so that a search whose driver was killed resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import optuna
from optuna.trial import TrialState

from spark_dl.errors import OptionError, explain

__all__ = ["DEFAULT_STORAGE", "check_rows", "finished", "open_study", "tell"]

# In the working directory, as MLflow's own default store.
DEFAULT_STORAGE = "sqlite:///spark_dl_studies.db"
_SEARCH = "spark_dl.search"
_ROWS = "spark_dl.rows."
_NOT_FINITE = "spark_dl.not_finite"


def open_study(study: optuna.Study | str | None, direction: str, search: Mapping[str, str], seed: int) -> optuna.Study:
    """Open the study of a search.

    Trials that were running in a killed driver are marked as failed, and their params are tried again.

    Args:
        study: A study, the name of one in DEFAULT_STORAGE, or None for a new one there.
        direction: "minimize" or "maximize".
        search: What the search varies and measures. A study with trials of another search is rejected.
        seed: The seed of the sampler of a new study.

    Raises:
        OptionError: The study belongs to another search, or has another direction.
    """
    if not isinstance(study, optuna.Study):
        study = optuna.create_study(
            storage=DEFAULT_STORAGE,
            study_name=study,
            load_if_exists=study is not None,
            direction=direction,  # type: ignore[arg-type]
        )
        # Each call draws other points; those of running trials count as bad ones, so that others are tried.
        study.sampler = optuna.samplers.TPESampler(
            seed=seed + len(study.get_trials(deepcopy=False)), constant_liar=True
        )
    _check(study, direction, search)
    study.set_user_attr(_SEARCH, json.dumps(search))
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)
        if left.params:
            study.enqueue_trial(left.params, skip_if_exists=False)
    return study


def check_rows(study: optuna.Study, conversion: str, rows: str) -> None:
    """Check that a study's values were measured on the same rows, as far as it has converted them the same way.

    Args:
        study: The study.
        conversion: A digest of how the rows were converted, which options of the space may change.
        rows: A digest of the converted rows.

    Raises:
        OptionError: The study has other rows.
    """
    known = study.user_attrs.get(_ROWS + conversion)
    has_values = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if known not in (None, rows) and has_values:
        raise OptionError(
            explain(
                f"The study {study.study_name!r} has values of other rows.",
                expected="the rows of its first search: values of other rows can't be compared",
                received="a DataFrame of other rows or values",
                fix="Give the search another study name. Write a DataFrame whose values differ each time "
                "that Spark computes them to Parquet first.",
            )
        )
    if known != rows:
        study.set_user_attr(_ROWS + conversion, rows)


def finished(study: optuna.Study) -> int:
    """Return the number of trials that have ended by themselves: pruned ones, and those without a finite value, too."""
    trials = study.get_trials(deepcopy=False)
    ended = [one for one in trials if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return len(ended) + sum(_NOT_FINITE in one.user_attrs for one in trials)


def tell(study: optuna.Study, trial: optuna.Trial, value: float | None, state: TrialState | None = None) -> bool:
    """Report the end of a trial.

    Args:
        study: The study.
        trial: The trial.
        value: Its value; None for none. One that isn't finite fails the trial.
        state: PRUNED or FAIL; None for a trial with a value.

    Returns:
        Whether the sampler has further points.
    """
    if value is not None and not math.isfinite(value):
        trial.set_user_attr(_NOT_FINITE, True)
        value, state = None, TrialState.FAIL
    try:
        study.tell(trial, value, state=state)
    except RuntimeError as error:
        # Samplers of a grid end a study so at their last point; the trial is stored.
        if "Study.stop" not in str(error):
            raise
        return False
    return True


def _check(study: optuna.Study, direction: str, search: Mapping[str, str]) -> None:
    known = json.loads(study.user_attrs.get(_SEARCH, "null"))
    if known is None and all(trial.state == TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
        known = search
    if known != search:
        other = [name for name in search if not known or known.get(name) != search[name]]
        raise OptionError(
            explain(
                f"The study {study.study_name!r} belongs to another search.",
                expected="; ".join(f"{name} {search[name]}" for name in other),
                received="; ".join(f"{name} {known[name]}" for name in other) if known else "trials of another program",
                fix="Give the search another study name.",
            )
        )
    if [one.name.lower() for one in study.directions] != [direction]:
        raise OptionError(
            explain(
                f"The study {study.study_name!r} has another direction.",
                expected=f"direction={direction!r}, as the metric has it",
                received=", ".join(one.name.lower() for one in study.directions),
                fix=f"Make it by optuna.create_study(direction={direction!r}).",
            )
        )
