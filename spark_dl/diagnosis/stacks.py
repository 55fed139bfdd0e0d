"""The stacks: combinations of versions that are pinned in conf. docs/compatibility.md says what was run on each."""

from __future__ import annotations

from collections.abc import Mapping

from spark_dl.diagnosis.report import Finding

__all__ = ["STACKS", "stack_of"]

# By the name of the stack, the release lines of what makes it; conf/constraints*.txt have the exact versions.
STACKS: Mapping[str, Mapping[str, str]] = {
    "primary": {
        "pyspark": "4.0",
        "pyarrow": "14.0",
        "numpy": "1.26",
        "pandas": "2.3",
        "tensorflow-cpu": "2.21",
        "keras": "3.15",
        "mlflow": "3.17",
    },
    "spark41": {
        "pyspark": "4.1",
        "pyarrow": "19.0",
        "numpy": "2.2",
        "pandas": "2.3",
        "tensorflow-cpu": "2.21",
        "keras": "3.15",
        "mlflow": "3.8",
    },
    "newest": {
        "pyspark": "4.3",
        "pyarrow": "25.0",
        "numpy": "2.4",
        "pandas": "2.3",
        "tensorflow-cpu": "2.21",
        "keras": "3.15",
        "mlflow": "3.17",
    },
}


def stack_of(where: str, versions: Mapping[str, str]) -> Finding:
    """Name the stack that a host has, or what differs from the nearest one, which is no fault.

    Args:
        where: "driver" or an executor's address.
        versions: The versions by package.
    """
    apart = {
        stack: [
            f"{name} {versions.get(name, 'missing')} (pinned: {line})"
            for name, line in lines.items()
            if ".".join(versions.get(name, "").split(".")[:2]) != line
        ]
        for stack, lines in STACKS.items()
    }
    nearest = min(apart, key=lambda stack: len(apart[stack]))
    differs = ", ".join(apart[nearest])
    return Finding(where, "stack", f"none of the pinned ones, nearest to {nearest}: {differs}" if differs else nearest)
