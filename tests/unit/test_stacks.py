"""The stacks: known to the doctor as they are pinned and documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spark_dl.diagnosis import machine
from spark_dl.diagnosis.stacks import STACKS, stack_of

ROOT = Path(__file__).parents[2]
PINS = {
    "primary": "constraints.txt",
    "spark41": "constraints-spark41.txt",
    "newest": "constraints-newest.txt",
}
# Columns of the table in docs/compatibility.md.
COLUMNS = {
    "Spark": "pyspark",
    "pyarrow": "pyarrow",
    "NumPy": "numpy",
    "pandas": "pandas",
    "TensorFlow": "tensorflow-cpu",
    "Keras": "keras",
    "MLflow": "mlflow",
    "Horovod": "horovod",
    "Petastorm": "petastorm",
}


def pins(stack: str) -> dict[str, str]:
    lines = (ROOT / "conf" / PINS[stack]).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.mark.parametrize("stack", STACKS)
def test_the_doctor_knows_each_stack_by_its_pins(stack: str) -> None:
    assert stack_of("driver", pins(stack)).found == stack


@pytest.mark.parametrize("stack", STACKS)
def test_the_table_of_the_documentation_has_the_pins(stack: str) -> None:
    page = (ROOT / "docs/compatibility.md").read_text()
    header, row = (re.search(rf"^\| {name} \|.*$", page, re.MULTILINE) for name in ("stack", stack))
    assert header
    assert row
    cells = dict(zip(header[0].split(" | "), row[0].split(" | "), strict=True))
    assert {package: cells[column] for column, package in COLUMNS.items()} == {
        package: pins(stack)[package] for package in COLUMNS.values()
    }


def test_what_is_between_the_stacks_is_named_and_no_fault() -> None:
    finding = stack_of("driver", {**pins("newest"), "pyspark": "4.2.1"})
    assert finding.found == "none of the pinned ones, nearest to newest: pyspark 4.2.1 (pinned: 4.3)"
    assert finding.fix == ""


@pytest.mark.stack
def test_this_stack_is_a_pinned_one() -> None:
    assert stack_of("driver", machine.versions()).found in STACKS
