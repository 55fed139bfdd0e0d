"""`spark-dl new`: write a small project that works."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import spark_dl
from spark_dl.cli import templates
from spark_dl.cli.command import Command
from spark_dl.cli.output import write_result
from spark_dl.errors import StoreError, explain

__all__ = ["COMMAND"]

# File of the project -> its template.
_FILES = {
    "README.md": "README.md.template",
    "model.py": "model.py.template",
    "sample_data.py": "sample_data.py.template",
    "jobs/train.sh": "train.sh.template",
    "jobs/score.sh": "score.sh.template",
    "tests/test_project.py": "test_project.py.template",
    ".github/workflows/ci.yml": "ci.yml.template",
    "requirements.txt": "requirements.txt.template",
    "pyproject.toml": "pyproject.toml.template",
    ".gitignore": "gitignore.template",
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="a new directory; its name is the project's")


def _run(given: argparse.Namespace) -> int:
    root = Path(given.directory).absolute()
    try:
        if root.exists() and any(root.iterdir()):
            raise StoreError(
                explain("DIR isn't empty.", expected="a new directory", received=root, fix="Give another name.")
            )
        written = []
        for name, text in _contents(root.name):
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            if file.suffix == ".sh":
                file.chmod(0o755)
            written.append(name)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            explain(
                "The project can't be written.",
                expected="a directory that can be created",
                received=error,
                fix="Choose another directory.",
            )
        ) from error
    text = "".join(f"{name}\n" for name in written) + f"Written to {root}; README.md says what to run."
    write_result("project", text, {"directory": str(root), "files": written}, as_json=given.log_json)
    return 0


def _contents(project: str) -> Iterator[tuple[str, str]]:
    """Yield the files of a project: name and content."""
    folder = Path(__file__).parents[1] / "project"
    for name, template in _FILES.items():
        text = (folder / template).read_text(encoding="utf-8")
        yield name, text.replace("PROJECT", project).replace("VERSION", spark_dl.__version__)
    model = f"models/{project}"
    train = {
        "model": "model:build",
        "estimator": "classifier",
        "modelParams": {"width": 16},
        "data": "data/train.parquet",
        "output": model,
        "overwrite": True,
        "numWorkers": 2,
        "epochs": 20,
        "validationFraction": 0.2,
        "restoreBestWeights": True,
    }
    score = {"model": model, "data": "data/new.parquet", "output": "scored", "writeMode": "overwrite"}
    for name, values in (("train", train), ("score", score)):
        yield f"conf/{name}.yaml", templates.rendered(name, values)


COMMAND = Command(
    "new", "write a small project that works: configurations, model, jobs, test, CI", _add_arguments, _run
)
