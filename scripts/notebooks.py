"""Execute notebooks: `scripts/notebooks.py [NAME...]` writes notebooks/NAME.ipynb from notebooks/NAME.py.

Without names, all of them. Each has a fresh kernel and an empty working directory.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from jvm import short_lived
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
JVM = f"{short_lived()} -Dlog4j2.configurationFile=file:{ROOT}/conf/log4j2-quiet.properties"
# The lines that the JVM and Spark print before logging is configured.
STARTUP = re.compile(
    r"^(WARNING: Using incubator modules|Using Spark's|Setting default log level|To adjust logging).*\n", re.M
)
TIMEOUT = 900  # a cell, also on a busy machine


def sources() -> list[Path]:
    """The notebooks in Jupytext's percent form."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook without outputs; equal sources give equal notebooks."""
    notebook = jupytext.read(path, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def environment() -> dict[str, str]:
    """The variables of a kernel: this checkout and this Python, and less noise while libraries start."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONWARNINGS": "ignore:IProgress not found",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_SUBMIT_OPTS": JVM,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }


def execute(path: Path) -> nbformat.NotebookNode:
    """Execute a notebook in a fresh kernel of this Python and an empty working directory; return it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised an exception.
    """
    notebook = read(path)
    with tempfile.TemporaryDirectory(prefix="notebook-", ignore_cleanup_errors=True) as directory:
        resources = {"metadata": {"path": directory}}
        client = NotebookClient(
            notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources, record_timing=False
        )
        client.execute(env=environment())
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        _clean(cell)
    return notebook


def _clean(cell: nbformat.NotebookNode) -> None:
    """Remove start-up lines of the JVM, and outputs that are empty without them."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stderr":
            output.text = STARTUP.sub("", output.text)
    if cell.cell_type == "code":
        cell.outputs = [one for one in cell.outputs if one.output_type != "stream" or one.text.strip()]


def main(names: list[str]) -> None:
    for path in sources():
        if names and path.stem not in names:
            continue
        start = time.monotonic()
        target = path.with_suffix(".ipynb")
        nbformat.write(execute(path), target)
        print(f"{target.name}: {time.monotonic() - start:.0f} s, {target.stat().st_size / 1000:,.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
