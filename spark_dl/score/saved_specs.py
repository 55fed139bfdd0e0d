"""Input specifications as JSON with a served model; the names of kinds there are those of the first format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from spark_dl.data.column import Column
from spark_dl.data.specs import FeatureSpec

__all__ = ["spec_from_dict", "spec_to_dict"]

# The saved names of kinds that the first format doesn't tell apart by name; a kind without a line has its own name.
_SAVED = (
    ("number", "scalar"),
    ("boolean", "scalar"),
    ("nested array", "array"),
    ("sparse vector", "vector"),
    ("text", "bytes"),
    ("image", "bytes"),
    ("image struct", "bytes"),
)


def spec_to_dict(spec: FeatureSpec) -> dict[str, Any]:
    """Return an input's specification as it is saved."""
    saved = {**asdict(spec), "columns": [_saved(column) for column in spec.columns]}
    del saved["target"]  # of conversions only
    return saved


def spec_from_dict(saved: Mapping[str, Any]) -> FeatureSpec:
    """Create an input's specification from the result of `spec_to_dict`."""
    dtype = str(saved["dtype"])
    columns = tuple(_column(column, dtype) for column in saved["columns"])
    return FeatureSpec(columns, tuple(map(int, saved["shape"])), dtype, str(saved["key"]))


def _saved(column: Column) -> dict[str, Any]:
    kind = dict(_SAVED).get(column.kind, column.kind)
    saved = {**asdict(column), "kind": kind, "image_struct": column.kind == "image struct"}
    del saved["validate"]  # of conversions only
    if column.pad is None:  # as in the first format, which earlier releases read
        del saved["pad"], saved["truncate"]
    return saved


def _column(saved: Mapping[str, Any], dtype: str) -> Column:
    """Create a column that feeds an input of this dtype."""
    content = {**saved, "inner": tuple(saved["inner"])}
    is_struct = content.pop("image_struct")
    kinds = {
        "scalar": "boolean" if saved["dtype"] == "bool" else "number",
        "array": "nested array" if saved["nested"] else "array",
        "vector": "sparse vector" if saved["sparse"] else "vector",
        "bytes": "text" if dtype == "string" else "image struct" if is_struct else "image",
    }
    return Column(**{**content, "kind": kinds.get(saved["kind"], saved["kind"])})
