"""The notebooks run from their sources, and those with outputs in the repository are made of the same sources."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path

import nbformat
import pytest
from notebook_script import script

LARGEST_PICTURE, LARGEST_NOTEBOOK = 100_000, 600_000
SOURCES = script.sources()
NAMES = [path.stem for path in SOURCES]


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_a_notebook_runs_and_what_it_claims_holds(source: Path) -> None:
    """A cell that raises, also by an assert, fails the test."""
    ran = script.execute(source)
    assert any(cell.get("outputs") for cell in ran.cells)


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_the_notebook_in_the_repository_has_the_outputs_of_this_source(source: Path) -> None:
    written = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(written)
    read = script.read(source)
    assert [(cell.cell_type, cell.source) for cell in written.cells] == [
        (cell.cell_type, cell.source) for cell in read.cells
    ], f"out of step: run scripts/notebooks.py {source.stem}"
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_a_notebook_is_small_and_without_litter(source: Path) -> None:
    path = source.with_suffix(".ipynb")
    assert path.stat().st_size < LARGEST_NOTEBOOK
    written = nbformat.read(path, as_version=4)
    for output in (output for cell in written.cells for output in cell.get("outputs", [])):
        text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        assert "\r" not in text
        assert "/site-packages/" not in text
        assert "tensorflow/core" not in text
        assert len(base64.b64decode(output.get("data", {}).get("image/png", ""))) < LARGEST_PICTURE


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_each_code_cell_but_imports_and_sizes_has_text_before_it(source: Path) -> None:
    cells = script.read(source).cells
    assert cells[0].cell_type == "markdown"
    alone = [
        after.source
        for before, after in itertools.pairwise(cells)
        if before.cell_type == after.cell_type == "code" and "import" not in after.source
    ]
    assert not alone
