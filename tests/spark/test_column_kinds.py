"""What Spark sends of each kind of column, to a conversion and to a scoring UDF."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from column_examples import EXAMPLES, Example
from pyspark.sql import DataFrame, SparkSession

from spark_dl.data.columns import decode_tensor, kind_of
from spark_dl.data.projection import arrow_projection, decode_batch
from spark_dl.score.heads import Regression
from spark_dl.score.scoring_model import ScoringModel


def rows_of(spark: SparkSession, example: Example) -> DataFrame:
    """The example's rows, and a row without a value."""
    return spark.createDataFrame([(row,) for row in [*example.rows, None]], example.schema).coalesce(1)


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_a_conversion_and_scoring_read_what_spark_sends(spark: SparkSession, example: Example) -> None:
    frame, spec = rows_of(spark, example), example.spec
    (column,) = spec.columns
    (batch,) = frame.select(arrow_projection([column])).toArrow().combine_chunks().to_batches()
    extracted = decode_batch(batch, [column])[column]
    assert extracted.missing.tolist() == [False, False, True]
    present = frame.where(kind_of(column).is_present(column))
    argument = present.select(kind_of(column).udf_argument(column, wide=False).alias("x")).toArrow()
    values = argument.column("x").to_pandas()
    if spec.coding == "sparse":  # a UDF gets a struct as a DataFrame
        values = pd.DataFrame(values.tolist())
    (scored,) = ScoringModel.of(b"", b"", [spec], Regression(), 8).inputs(
        {column: kind_of(column).from_pandas(values, column)}
    )
    for rows in (extracted.array[:2].reshape(-1, *(() if spec.coding else spec.shape)), scored):
        fed = decode_tensor(rows, spec.coding, spec.shape, spec.dtype).numpy()
        np.testing.assert_array_equal(fed, np.array(example.expected, fed.dtype))
