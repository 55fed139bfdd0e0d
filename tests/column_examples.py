"""An example of each kind of column, in every form that it has between Spark and the model.

A new kind is held to `unit/test_column_kinds.py` and `spark/test_column_kinds.py` by its line in EXAMPLES.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from pyspark.ml.linalg import DenseVector, SparseVector, VectorUDT
from pyspark.sql import types as T

from spark_dl.data.columns import OPEN
from spark_dl.data.padding_policy import PaddingPolicy
from spark_dl.data.schema import ColumnRules, feature_spec
from spark_dl.data.specs import FeatureSpec

VECTOR = pa.struct(
    [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
)
# As Spark's image data source has it.
IMAGE_STRUCT = T.StructType().add("origin", "string").add("height", "integer").add("width", "integer")
IMAGE_STRUCT = IMAGE_STRUCT.add("nChannels", "integer").add("mode", "integer").add("data", "binary")


@dataclass(frozen=True)
class Example:
    """Two rows of a column "x", and what they are wherever they are read.

    Attributes:
        type: The Spark type.
        rows: The rows in a Spark DataFrame.
        shape: The shape of one row of the model's input.
        parquet: The rows as Arrow reads them from Parquet.
        pandas: The rows as Spark gives them to a scoring UDF.
        served: The rows as users give them to a served model.
        expected: The rows as the model's input.
        bad: A row that a served model refuses.
        saved: The name of the kind in saved models.
        dtype: The dtype of the model's input.
        rules: The options for the column's interpretation.
    """

    type: T.DataType
    rows: list[Any]
    shape: tuple[int, ...]
    parquet: pa.Array
    pandas: Any
    served: list[Any]
    expected: Any
    bad: Any
    saved: str
    dtype: str = "float32"
    rules: ColumnRules = field(default_factory=ColumnRules)

    @property
    def spec(self) -> FeatureSpec:
        """The specification that the schema check makes."""
        return feature_spec(self.schema, ["x"], "featuresCol", self.shape, self.dtype, self.rules)

    @property
    def schema(self) -> T.StructType:
        """The Spark schema, of the column alone."""
        return T.StructType([T.StructField("x", self.type)])


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 3), np.uint8)  # two images of 2 x 3


def png(pixels: np.ndarray) -> bytes:
    """An image as a file."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


def image_struct(pixels: np.ndarray) -> dict[str, Any]:
    """An image as Spark's image data source has it: blue first."""
    height, width, channels = pixels.shape
    data = pixels[..., ::-1].tobytes()
    return {"origin": "", "height": height, "width": width, "nChannels": channels, "mode": 16, "data": data}


STRUCTS = [image_struct(pixels) for pixels in PIXELS]
FILES = [png(pixels) for pixels in PIXELS]
BYTES = [bytes(range(6)), bytes(range(250, 256))]
NESTED = [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[0.5, 0.0, -1.0], [7.0, 8.0, 9.0]]]
DENSE = [[0.0, 2.5, 0.0], [1.0, 0.0, -3.0]]
# The same as Vectors: the first sparse, the second dense.
VECTORS = [SparseVector(3, {1: 2.5}), DenseVector(DENSE[1])]
FIELDS = [
    {"type": 0, "size": 3, "indices": [1], "values": [2.5]},
    {"type": 1, "size": None, "indices": None, "values": DENSE[1]},
]

EXAMPLES = {
    "number": Example(
        type=T.IntegerType(),
        rows=[7, -1],
        shape=(1,),
        parquet=pa.array([7, -1], pa.int32()),
        pandas=pd.Series([7, -1], dtype="int32"),
        served=[7, -1],
        expected=[[7], [-1]],
        bad="seven",
        saved="scalar",
    ),
    "decimal": Example(
        type=T.DecimalType(10, 2),
        rows=[Decimal("7.25"), Decimal(-1)],
        shape=(1,),
        parquet=pa.array([Decimal("7.25"), Decimal("-1.00")], pa.decimal128(10, 2)),
        pandas=pd.Series([7.25, -1.0]),
        served=[Decimal("7.25"), Decimal(-1)],
        expected=[[7.25], [-1]],
        bad="seven",
        saved="decimal",
    ),
    "boolean": Example(
        type=T.BooleanType(),
        rows=[True, False],
        shape=(1,),
        parquet=pa.array([True, False]),
        pandas=pd.Series([True, False]),
        served=[True, False],
        expected=[[1], [0]],
        bad={"yes": True},
        saved="scalar",
    ),
    "array": Example(
        type=T.ArrayType(T.DoubleType()),
        rows=DENSE,
        shape=(3,),
        parquet=pa.array(DENSE),
        pandas=pd.Series([np.array(row) for row in DENSE]),
        served=DENSE,
        expected=DENSE,
        bad=["a", "b", "c"],
        saved="array",
    ),
    "nested array": Example(
        type=T.ArrayType(T.ArrayType(T.FloatType())),
        rows=NESTED,
        shape=(2, 3),
        parquet=pa.array(NESTED, pa.list_(pa.list_(pa.float32()))),
        pandas=pd.Series([np.array(row, np.float32).ravel() for row in NESTED]),
        served=NESTED,
        expected=NESTED,
        bad=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
        saved="array",
    ),
    "ragged array": Example(
        type=T.ArrayType(T.ArrayType(T.FloatType())),
        rows=[NESTED[0], []],
        shape=(OPEN, 3),
        parquet=pa.array([NESTED[0], []], pa.list_(pa.list_(pa.float32()))),
        pandas=pd.Series([np.array(NESTED[0], np.float32).ravel(), np.full(3, 9.0, np.float32)]),
        served=[NESTED[0], []],
        expected=[[*NESTED[0], *[[9.0] * 3] * 6], [[9.0] * 3] * 8],
        bad=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
        saved="ragged array",
        rules=ColumnRules(padding=PaddingPolicy({"x": 9})),
    ),
    "vector": Example(
        type=VectorUDT(),
        rows=VECTORS,
        shape=(3,),
        parquet=pa.array(FIELDS, VECTOR),
        pandas=pd.Series([np.array(row, np.float32) for row in DENSE]),
        served=DENSE,
        expected=DENSE,
        bad=["a", "b", "c"],
        saved="vector",
    ),
    "sparse vector": Example(
        type=VectorUDT(),
        rows=VECTORS,
        shape=(3,),
        parquet=pa.array(FIELDS, VECTOR),
        pandas=pd.DataFrame(FIELDS),
        served=DENSE,
        expected=DENSE,
        bad=["a", "b", "c"],
        saved="vector",
        rules=ColumnRules(sparse="always"),
    ),
    "binary": Example(
        type=T.BinaryType(),
        rows=[bytearray(row) for row in BYTES],
        shape=(2, 3),
        parquet=pa.array(BYTES),
        pandas=pd.Series(BYTES),
        served=BYTES,
        expected=[np.frombuffer(row, np.uint8).reshape(2, 3) for row in BYTES],
        bad=3,
        saved="binary",
        rules=ColumnRules(binary="raw"),
    ),
    "text": Example(
        type=T.StringType(),
        rows=["", "zwölf"],
        shape=(1,),
        parquet=pa.array(["", "zwölf"]),
        pandas=pd.Series(["", "zwölf"]),
        served=["", "zwölf"],
        expected=[[b""], ["zwölf".encode()]],
        bad=12,
        saved="bytes",
        dtype="string",
    ),
    "text array": Example(
        type=T.ArrayType(T.StringType()),
        rows=[["", "zwölf"], ["a b", ""]],
        shape=(2,),
        parquet=pa.array([["", "zwölf"], ["a b", ""]]),
        pandas=pd.Series([np.array([b"", "zwölf".encode()], object), np.array([b"a b", b""], object)]),
        served=[["", "zwölf"], ["a b", ""]],
        expected=[[b"", "zwölf".encode()], [b"a b", b""]],
        bad=[12, 13],
        saved="text array",
        dtype="string",
    ),
    "image": Example(
        type=T.BinaryType(),
        rows=[bytearray(row) for row in FILES],
        shape=(2, 3, 3),
        parquet=pa.array(FILES),
        pandas=pd.Series(FILES),
        served=FILES,
        expected=PIXELS,
        bad=b"no image",
        saved="bytes",
    ),
    "image struct": Example(
        type=IMAGE_STRUCT,
        rows=STRUCTS,
        shape=(2, 3, 3),
        parquet=pa.array(STRUCTS),
        pandas=pd.Series(
            [
                b"\x93SPARK"
                + b"".join(one[n].to_bytes(4, "big") for n in ("height", "width", "nChannels"))
                + one["data"]
                for one in STRUCTS
            ]
        ),
        served=STRUCTS,
        expected=PIXELS,
        bad=b"no struct",
        saved="bytes",
    ),
}
