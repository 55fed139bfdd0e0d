"""Serving of a fitted model without Spark: its specification as JSON, and predictions for pandas or NumPy rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd

from spark_dl.data.columns import kind_of
from spark_dl.data.specs import FeatureSpec
from spark_dl.errors import DataError, SavedModelError, explain, hint
from spark_dl.score.engines import KERAS
from spark_dl.score.heads import Head, head_from_dict
from spark_dl.score.saved_specs import spec_from_dict, spec_to_dict
from spark_dl.score.scoring_model import ScoringModel

__all__ = ["Served", "Serving"]


@dataclass(frozen=True)
class Serving:
    """Serving specification: the model's inputs, head and output columns.

    Attributes:
        features: The specification of each model input.
        head: The head, which converts outputs to columns.
        outputs: The name of the output column by field of the head.
        batch_size: The maximum number of rows in a batch.
        nulls: The value of scoreNullPolicy.
        engine: The value of scoreEngine.
    """

    features: tuple[FeatureSpec, ...]
    head: Head
    outputs: Mapping[str, str]
    batch_size: int
    nulls: str = "error"
    engine: str = KERAS

    def to_json(self) -> str:
        """Serialise the specification to JSON."""
        content = {
            "features": [spec_to_dict(spec) for spec in self.features],
            "head": {**self.head.as_dict(), **_more(self.head)},
            "outputs": dict(self.outputs),
            "batch_size": self.batch_size,
            **({} if self.nulls == "error" else {"nulls": self.nulls}),
            **({} if self.engine == KERAS else {"engine": self.engine}),
        }
        return json.dumps(content, indent=1)

    def example(self) -> dict[str, Any] | None:
        """Build an example row by column, of zeros and empty texts; None for binary, image or sparse Vector columns."""
        row = {}
        for spec in self.features:
            for column in spec.columns:
                row[column.name] = kind_of(column).example(column, spec.shape)
                if row[column.name] is None:
                    return None
        return row

    @staticmethod
    def of_json(text: str) -> Serving:
        """Create the specification from the result of `to_json`.

        Raises:
            SavedModelError: The text isn't a serving specification.
        """
        try:
            content = json.loads(text)
            return Serving(
                tuple(spec_from_dict(spec) for spec in content["features"]),
                head_from_dict(content["head"]),
                {str(field): str(name) for field, name in content["outputs"].items()},
                int(content["batch_size"]),
                str(content.get("nulls", "error")),  # earlier releases saved neither this
                str(content.get("engine", KERAS)),  # nor this
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SavedModelError(
                explain(
                    "The request can't be read.",
                    expected="a request in MLflow's scoring protocol",
                    received=f"{type(error).__name__}: {error}",
                    fix="Check the request's columns and types against the model's signature.",
                )
            ) from error


class Served:
    """Predictor that runs a fitted model in this process, without Spark.

    Args:
        serving: The serving specification.
        content: The `.keras` file as bytes, or the file of the serving's engine.
    """

    def __init__(self, serving: Serving, content: bytes) -> None:
        self._outputs = serving.outputs
        nothing = cloudpickle.dumps({})
        self._model = ScoringModel.of(
            content, nothing, serving.features, serving.head, serving.batch_size, serving.nulls, serving.engine
        )

    @property
    def columns(self) -> list[str]:
        """Names of the feature columns."""
        return [column.name for column in self._model.columns]

    def predict(self, rows: Any) -> pd.DataFrame:
        """Predict the output columns of rows.

        Args:
            rows: A pandas DataFrame, a dict of columns or a list of dicts, with the feature columns; or a NumPy array
                of shape (rows, ...), for the only feature column, or (rows, columns) for several scalar columns.

        Returns:
            A DataFrame with one row per input row, of numbers, or of arrays where `transform` has Vectors or arrays.

        Raises:
            DataError: A feature column is missing, or rows can't be read or scored.
        """
        frame = self._frame(rows)
        missing = [name for name in self.columns if name not in frame]
        if missing:
            raise DataError(
                explain(
                    f"The rows have no column {missing[0]!r}.",
                    expected=", ".join(self.columns),
                    received=", ".join(map(str, frame)) or "no columns",
                    fix=hint(missing[0], list(map(str, frame))),
                )
            )
        columns = self._model.columns
        found = self._model.score_pandas([kind_of(one).from_served(frame[one.name], one) for one in columns])
        known, fields = found.known(), self._model.head.fields()
        index = frame.index if found.unscorable is None else frame.index[~found.unscorable]
        content = {name: fields[field].nested(known[field]) for field, name in self._outputs.items()}
        result = pd.DataFrame(
            {name: values if values.ndim == 1 else list(values) for name, values in content.items()}, index=index
        )
        # Rows that couldn't be scored become NaN, also in columns of arrays.
        return result if self._model.nulls == "drop" or len(result) == len(frame) else _with_nulls(result, frame)

    def _frame(self, rows: Any) -> pd.DataFrame:
        if isinstance(rows, pd.DataFrame):
            return rows
        if isinstance(rows, Mapping):
            return pd.DataFrame(
                {
                    name: pd.Series(list(values) if isinstance(values, (list, tuple)) else list(np.atleast_1d(values)))
                    for name, values in rows.items()
                }
            )
        if isinstance(rows, np.ndarray) and rows.ndim:
            return self._columns_of(rows)
        if isinstance(rows, Sequence) and rows and all(isinstance(row, Mapping) for row in rows):
            return pd.DataFrame(list(rows))
        raise DataError(
            explain(
                "These rows can't be read.",
                expected=f"a DataFrame, an array, a dict or a list of dicts, with columns {', '.join(self.columns)}",
                received=type(rows).__name__,
                fix="Send one of these.",
            )
        )

    def _columns_of(self, rows: np.ndarray) -> pd.DataFrame:
        names = self.columns
        if len(names) == 1:
            flat = kind_of(self._model.columns[0]).is_flat
            return pd.DataFrame({names[0]: pd.Series(list(rows.reshape(len(rows)) if flat else rows))})
        if rows.ndim == 2 and rows.shape[1] == len(names):
            return pd.DataFrame(rows, columns=names)
        raise DataError(
            explain(
                "An array can't be split into the model's columns.",
                expected=f"shape (rows, {len(names)}) for {', '.join(names)}; or a DataFrame, or a dict of columns",
                received=f"shape {rows.shape}",
                fix="Name the columns: send a DataFrame or a dict of columns.",
            )
        )


def _with_nulls(result: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Add the rows of the frame that the result lacks, with NaN in each column."""
    if frame.index.is_unique:
        return result.reindex(frame.index)
    raise DataError(
        explain(
            "Rows without a score can't be identified: the index has duplicates.",
            expected="rows with an index of unique values",
            received="an index with duplicates",
            fix="Call reset_index before.",
        )
    )


def _more(head: Head) -> dict[str, Any]:
    """Return the head's settings that `as_dict` omits: a classifier's thresholds."""
    thresholds = getattr(head, "thresholds", ())
    return {"thresholds": list(thresholds)} if thresholds else {}
