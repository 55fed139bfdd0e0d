"""The contract of each kind of column: one way to the model, whatever reads the rows, and clear errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from column_examples import EXAMPLES, Example
from rows import scored_input, sent

from spark_dl.data.batches import keras_batch
from spark_dl.data.column import Column
from spark_dl.data.columns import KINDS, decode_tensor, kind_of
from spark_dl.data.convert import convert_batches
from spark_dl.data.row_errors import RowErrors
from spark_dl.data.specs import ConversionSpec, LabelSpec
from spark_dl.errors import DataError
from spark_dl.io.store import Store
from spark_dl.score.heads import Regression
from spark_dl.score.saved_specs import spec_from_dict, spec_to_dict
from spark_dl.score.scoring_model import ScoringModel

LABEL = LabelSpec(Column("y", "number", "int32", 1), (), "int32", None)
by_kind = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


def test_each_kind_has_an_example() -> None:
    assert [kind.name for kind in KINDS] == list(EXAMPLES)


def with_null(example: Example) -> tuple[pa.Array, Any, list[Any]]:
    """The rows and a null after them, as they are in Parquet, in a scoring UDF and in serving."""
    parquet = pa.array([*example.parquet.to_pylist(), None], example.parquet.type)
    null = pd.DataFrame if isinstance(example.pandas, pd.DataFrame) else pd.Series
    null_row = null([{"type": None}] if null is pd.DataFrame else [None])
    return parquet, pd.concat([example.pandas, null_row], ignore_index=True), [*example.served, None]


def converted(example: Example, parquet: pa.Array) -> tuple[RowErrors, np.ndarray | None]:
    """The row errors of a conversion, and the batch's features."""
    (column,) = example.spec.columns
    conversion = ConversionSpec(Store("memory://"), (example.spec,), (LABEL,))
    arrays = {"x": kind_of(column).from_parquet(parquet, column), "y": pa.array(np.arange(len(parquet)), pa.int32())}
    errors, batches = convert_batches(conversion, [sent(pa.RecordBatch.from_pydict(arrays), conversion.columns)])
    fed = [keras_batch(conversion.tensors, batch)[0].numpy() for batch in batches]
    return errors, fed[0] if fed else None


def from_parquet(example: Example, parquet: pa.Array) -> np.ndarray:
    (column,) = example.spec.columns
    model = ScoringModel.of(b"", b"", [example.spec], Regression(), 8)
    (rows,) = model.inputs({column: kind_of(column).from_parquet(parquet, column)})
    return rows


def from_served(example: Example, rows: list[Any]) -> np.ndarray:
    (column,) = example.spec.columns
    return scored_input(example.spec, kind_of(column).from_served(pd.Series(rows), column))


@pytest.mark.parametrize(("name", "example"), EXAMPLES.items(), ids=EXAMPLES)
def test_the_schema_check_finds_the_kind(name: str, example: Example) -> None:
    (column,) = example.spec.columns
    assert (column.name, column.kind, kind_of(column).name) == ("x", name, name)


@by_kind
def test_the_model_gets_the_same_in_training_and_in_every_way_of_scoring(example: Example) -> None:
    errors, fed = converted(example, example.parquet)
    assert not errors.counts
    ways = {
        "transform": scored_input(example.spec, example.pandas),
        "scoreParquet": from_parquet(example, example.parquet),
        "serving": from_served(example, example.served),
    }
    spec = example.spec
    found = {way: decode_tensor(rows, spec.coding, spec.shape, spec.dtype).numpy() for way, rows in ways.items()}
    for way, rows in {"fit": fed, **found}.items():
        assert rows is not None
        assert (way, rows.dtype) == (way, object if spec.dtype == "string" else spec.dtype)
        np.testing.assert_array_equal(rows, np.array(example.expected, rows.dtype), err_msg=way)


@by_kind
def test_a_missing_value_is_an_error_by_name(example: Example) -> None:
    parquet, pandas, served = with_null(example)
    errors, fed = converted(example, parquet)
    assert errors.counts == {("null", "x", ""): 1}
    assert fed is None
    ways: dict[str, Callable[[], Any]] = {
        "transform": lambda: scored_input(example.spec, pandas),
        "scoreParquet": lambda: from_parquet(example, parquet),
        "serving": lambda: from_served(example, served),
    }
    messages = set()
    for way in ways.values():
        with pytest.raises(DataError, match=r"The column 'x' can't be scored.*no nulls") as refused:
            way()
        messages.add(str(refused.value))
    assert len(messages) == 1
    assert re.search("1 null or NaN in a batch of 3 rows, the first in row 2", messages.pop())


@by_kind
def test_a_bad_value_is_refused_by_name(example: Example) -> None:
    with pytest.raises(DataError, match="The column 'x' can't be scored"):
        from_served(example, [example.bad, *example.served])


@by_kind
def test_an_example_for_serving_can_be_scored(example: Example) -> None:
    (column,) = example.spec.columns
    made = kind_of(column).example(column, example.spec.shape)
    if made is None:
        assert kind_of(column).coding in ("image", "sparse") or column.kind == "binary"
    else:
        assert from_served(example, [made]).shape == (1, *(() if example.spec.coding else example.shape))


@by_kind
def test_specifications_are_saved_as_in_the_first_format(example: Example) -> None:
    saved = spec_to_dict(example.spec)
    (column,) = saved["columns"]
    assert column["kind"] == example.saved
    assert column["image_struct"] == (example.spec.columns[0].kind == "image struct")
    padding = ("pad", "truncate") if example.rules.padding.named else ()
    assert list(column) == [
        *("name", "kind", "dtype", "width", "nested", "inner", "drop", "fill", "sparse", *padding, "image_struct")
    ]
    assert spec_from_dict(saved) == example.spec
