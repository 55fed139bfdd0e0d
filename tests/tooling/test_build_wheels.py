"""What scripts/build_wheels.sh refuses before it builds anything, and what it does with a set-up that is stubbed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USAGE = "usage: scripts/build_wheels.sh [--stack NAME] [--gpu] [--all] DIRECTORY"

# Stands for a stack's Python: it says how it is called, and makes spark_dl's wheel.
PYTHON = """#!/bin/sh
echo python "$@"
case "$*" in
  *"pip wheel"*--no-deps*) touch "{made}/spark_dl-1.0-py3-none-any.whl" ;;
  *"pip check"*) [ -z "$FAILS" ] || exit 1 ;;
  *venv*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the script takes, with a set-up that only says how it was called."""
    copy, made = tmp_path / "checkout", tmp_path / "made"
    (copy / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/build_wheels.sh", copy / "scripts")
    (copy / "scripts/setup.sh").write_text('#!/bin/sh\necho setup.sh "$@"\n')
    (copy / "scripts/setup.sh").chmod(0o755)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "spark_dl/__init__.py"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).touch()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "horovod-0.whl").touch()
    for venv, pins in ((".venv", "constraints.txt"), (".venv-newest", "constraints-newest.txt")):
        (copy / venv / "bin").mkdir(parents=True)
        (copy / venv / ".horovod-wheel").write_text(f"{tmp_path / 'cache'}\n")
        (copy / venv / "bin/python").write_text(PYTHON.format(made=made))
        (copy / venv / "bin/python").chmod(0o755)
        (copy / "conf").mkdir(exist_ok=True)
        (copy / "conf" / pins).write_text(f"numpy==1 # {pins}\n")
    return copy


def build(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "SPARK_DL_STACK"} | variables
    command = [checkout / "scripts/build_wheels.sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=known, check=False)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "no directory"),
        (["--cuda", "made"], "unknown argument: --cuda"),
        (["made", "other"], "more than one directory: other"),
        (["made", "--stack"], "--stack needs a name"),
    ],
)
def test_wrong_arguments_are_answered_with_the_usage(checkout: Path, arguments: list[str], reason: str) -> None:
    ran = build(checkout, *arguments)
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", f"{USAGE} ({reason})\n")


def test_a_directory_with_files_of_another_build_is_refused(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old.whl").touch()
    ran = build(checkout, str(tmp_path / "made"))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"build_wheels.sh: {tmp_path / 'made'} is not empty\n"


def test_a_directory_whose_check_fails_is_left_empty(checkout: Path, tmp_path: Path) -> None:
    assert build(checkout, str(tmp_path / "made"), FAILS="yes").returncode == 1
    assert list((tmp_path / "made").iterdir()) == []
    assert build(checkout, str(tmp_path / "made")).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "stack", "extra", "offline"),
    [
        ([], "primary", "cpu", False),
        (["--stack", "newest"], "newest", "cpu", False),
        (["--stack=newest", "--gpu", "--all"], "newest", "gpu", True),
    ],
)
def test_the_directory_has_both_wheels_and_the_pins_of_the_stack_and_the_command_is_tried(
    checkout: Path, tmp_path: Path, arguments: list[str], stack: str, extra: str, offline: bool
) -> None:
    made = tmp_path / "made"
    ran = build(checkout, *arguments, str(made))
    assert ran.returncode == 0, ran.stderr
    first, *calls, _, last = ran.stdout.splitlines()
    assert first == f"setup.sh --stack {stack} --{extra}"
    names = sorted(path.name for path in made.iterdir())
    assert names == ["constraints.txt", "horovod-0.whl", "spark_dl-1.0-py3-none-any.whl"]
    assert ("newest" in (made / "constraints.txt").read_text()) == (stack == "newest")
    index = " --no-index" if offline else ""
    options = f"-c {made}/constraints.txt --find-links {made} --only-binary horovod{index}"
    wheel = f"spark_dl-1.0-py3-none-any.whl[{extra}]"
    assert f"python -m pip install --quiet {options} {made}/{wheel}" in calls
    collected = [call for call in calls if call.startswith("python -m pip wheel")]
    assert len(collected) == offline
    assert last == "python -m pip install " + " ".join(
        f"'{part}'" for part in [*options.replace(str(made), "DIRECTORY").split(), f"DIRECTORY/{wheel}"]
    )
