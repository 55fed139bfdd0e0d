"""What scripts/test.sh runs, and with which arguments, told by commands that print how they are called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = "--numprocesses 2 --dist loadgroup --no-loadscope-reorder "


def run(directory: Path, *arguments: str) -> list[str]:
    """Each command that a copy of test.sh calls, as a line."""
    scripts, commands = directory / "scripts", directory / "commands"
    scripts.mkdir()
    commands.mkdir()
    shutil.copy(ROOT / "scripts" / "test.sh", scripts)
    for name in ("ruff", "mypy", "deptry", "python"):
        (commands / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
    (scripts / "setup.sh").write_text('#!/bin/sh\necho setup.sh "$@"\n')
    (scripts / "env.sh").write_text("")
    for path in (*commands.iterdir(), scripts / "setup.sh"):
        path.chmod(0o755)
    ran = subprocess.run(
        [scripts / "test.sh", *arguments],
        cwd=directory,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.rstrip() for line in ran.stdout.splitlines() if not line.startswith("==> ")]


def test_every_check_runs_and_two_processes_share_the_tests(tmp_path: Path) -> None:
    assert run(tmp_path) == [
        "setup.sh",
        "ruff check .",
        "ruff format --check .",
        "mypy spark_dl",
        "mypy --config-file scripts/mypy.ini",
        "deptry .",
        f"python -m pytest --durations=20 {SHARED}".rstrip(),
    ]


@pytest.mark.parametrize(
    ("arguments", "shared"),
    [
        (["tests/unit", "-k", "a name"], True),
        (["-x", "--durations=5"], True),
        (["--numprocesses", "0"], False),
        (["-n4", "tests/spark"], False),
        (["--dist=no"], False),
        (["-p", "no:xdist"], False),
        (["--pdb"], False),
    ],
)
def test_arguments_go_to_pytest(tmp_path: Path, arguments: list[str], shared: bool) -> None:
    last = run(tmp_path, *arguments)[-1]
    assert last == f"python -m pytest --durations=20 {SHARED if shared else ''}{' '.join(arguments)}"


@pytest.mark.parametrize("named", [False, True])
def test_a_stack_is_set_up_and_runs_the_tests_that_are_marked_for_it(named: bool, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    for name, mark in {
        "marked": "@pytest.mark.stack\n",
        "param": 'marks=pytest.mark.stack, id="a"',
        "other": "",
    }.items():
        (tmp_path / f"tests/test_{name}.py").write_text(f"import pytest\n{mark}")
    path = "tests/test_other.py::test_name" if named else ""
    files = "" if named else "tests/test_marked.py tests/test_param.py "
    assert run(tmp_path, "--stack", "newest", "-k", "a name", *path.split()) == [
        "setup.sh --stack newest",
        f"python -m pytest --durations=20 {SHARED}-m stack {files}-k a name {path}".rstrip(),
    ]


def test_another_stack_follows_the_whole_suite(tmp_path: Path) -> None:
    calls = run(tmp_path, "--also-stack", "newest", "-x")
    assert calls[-3:] == [
        f"python -m pytest --durations=20 {SHARED}-x",
        "setup.sh --stack newest",
        f"python -m pytest --durations=20 {SHARED}-m stack -x",
    ]
    assert calls[0] == "setup.sh"
