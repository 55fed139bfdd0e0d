"""What scripts/setup.sh refuses: one clear line that names what brings the missing thing, before anything is made."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SETTINGS = ("PYTHON", "CUDA_HOME", "HOROVOD_NCCL_HOME", "CXX", "SPARK_DL_STACK")
PINS = sorted((ROOT / "conf").glob("constraints*.txt"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what setup.sh reads, with an empty cache beside it."""
    copy = tmp_path / "checkout"
    names = ["setup.py", "pyproject.toml", "scripts/setup.sh", "scripts/env.sh", "spark_dl/__init__.py"]
    for name in (*names, *(f"conf/{path.name}" for path in PINS)):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    return copy


def set_up(
    checkout: Path, stubs: Mapping[str, str], settings: Mapping[str, str], arguments: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run setup.sh with these commands (shell scripts) before all others on the PATH."""
    commands = checkout.parent / "commands"
    commands.mkdir()
    for name, script in stubs.items():
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    known = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment = {
        **known,
        "SPARK_DL_CACHE": str(checkout.parent / "cache"),
        "PATH": f"{commands}:{os.environ['PATH']}",
        **{name: value.replace("COMMANDS", str(commands)) for name, value in settings.items()},
    }
    return subprocess.run(
        [shutil.which("bash") or "bash", str(checkout / "scripts/setup.sh"), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def python(version: str, lacks_venv: bool = False) -> str:
    """A Python that answers setup.sh's question."""
    return f"printf '%s\\n' /usr/bin/python {version} abi {lacks_venv}"


# The commands that it has called before it has found a Python.
NEEDED = ("dirname", "getconf", "tr", "uname")
CUDA = "echo 'Cuda compilation tools, release 12.9, V12.9.1'"
ALONE = {name: f'exec {shutil.which(name)} "$@"' for name in NEEDED}
BARE = {f"python3.{minor}": python(f"3.{minor}", lacks_venv=True) for minor in (11, 13)}
DISK = "printf 'Filesystem 1M Used Available Use Mounted\\n/dev/x 9 8 %s 9%% /\\n' 120"

REFUSED = {
    "a system that isn't Linux": ({"uname": "echo Darwin"}, {}, [], "Darwin is not supported"),
    "a Linux without glibc": ({"getconf": "exit 1"}, {}, [], "take a Linux like Debian or Ubuntu"),
    "a Python that isn't there": ({}, {"PYTHON": "/no/python"}, [], "PYTHON=/no/python does not run"),
    "a Python too old": (
        {"old": python("3.9")},
        {"PYTHON": "COMMANDS/old"},
        [],
        "is Python 3.9: 3.11 or 3.12 is needed",
    ),
    "a Python too new": ({"new": python("3.13")}, {"PYTHON": "COMMANDS/new"}, [], "is Python 3.13: 3.11 or 3.12 is"),
    "a Python too new for the newest stack": (
        {"new": python("3.14")},
        {"PYTHON": "COMMANDS/new"},
        ["--stack=newest"],
        "is Python 3.14: 3.11, 3.12 or 3.13 is needed",
    ),
    "a Python without venv": (
        {"bare": python("3.12", lacks_venv=True)},
        {"PYTHON": "COMMANDS/bare"},
        [],
        "(Debian package python3.12-venv)",
    ),
    "no Python at all": (
        ALONE,
        {"PATH": "COMMANDS"},
        [],
        "(Debian packages python3 and python3-venv)",
    ),
    "the Python of the primary stack": ({**ALONE, **BARE}, {"PATH": "COMMANDS"}, [], "is Python 3.11 without venv"),
    "the first Python of the newest stack": (
        {**ALONE, **BARE},
        {"PATH": "COMMANDS"},
        ["--stack=newest"],
        "is Python 3.13 without venv",
    ),
    "no compiler": ({}, {"CXX": "/no/g++"}, [], "/no/g++ (Debian package g++)"),
    "no make": ({"make": "exit 127"}, {}, [], "make is missing (Debian package make)"),
    "no disk": ({"df": DISK}, {}, [], "too little disk space for .venv"),
    "a cache that can't be written": ({}, {"SPARK_DL_CACHE": "/proc/none"}, [], "set SPARK_DL_CACHE to a directory"),
    "an unknown stack": ({}, {}, ["--stack", "oldest"], "no stack 'oldest': primary, newest or spark41 is expected"),
    "a stack without a name": ({}, {}, ["--stack"], "no stack ''"),
    "no disk for another stack": ({"df": DISK}, {}, ["--stack=newest"], "too little disk space for .venv-newest"),
    "no CUDA": ({"nvcc": "exit 1"}, {}, ["--gpu"], "--gpu: no CUDA toolkit"),
    "no NCCL": ({"nvcc": CUDA}, {}, ["--gpu"], "--gpu: NCCL is missing"),
    "no GPU": (
        {"nvcc": CUDA, "g++": "cat >/dev/null", "nvidia-smi": "exit 9"},
        {},
        ["--gpu"],
        "--gpu: no NVIDIA driver",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_missing_is_one_line_that_names_what_brings_it(what: str, checkout: Path) -> None:
    stubs, settings, arguments, told = REFUSED[what]
    ran = set_up(checkout, stubs, settings, arguments)
    assert ran.returncode == 1
    assert ran.stderr.startswith("setup.sh: ")
    assert len(ran.stderr.splitlines()) == 1
    assert told in ran.stderr
    assert not (checkout / ".venv").exists()


def test_an_unknown_argument_is_answered_with_the_usage(checkout: Path) -> None:
    ran = set_up(checkout, {}, {}, ["--cuda"])
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        "usage: scripts/setup.sh [--stack NAME] [--cpu | --gpu] [--help] (unknown argument: --cuda)\n"
    )


def test_a_venv_for_gpus_stays_one_until_another_is_asked_for(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".made-for").write_text(f"{checkout} cp311 gpu\n")
    missing = {"nvcc": "exit 1", "make": "exit 127"}
    assert "--gpu: no CUDA toolkit" in set_up(checkout, missing, {}).stderr
    shutil.rmtree(checkout.parent / "commands")
    assert "make is missing" in set_up(checkout, missing, {}, ["--cpu"]).stderr


def test_the_environment_behind_a_link_is_left_as_it_is(checkout: Path) -> None:
    other = checkout.parent / "other"
    other.mkdir()
    (other / "kept").touch()
    (checkout / ".venv").symlink_to(other)
    ran = set_up(checkout, {}, {})
    assert ran.returncode == 1
    assert f"setup.sh: {checkout}/.venv is a link to {other}" in ran.stderr
    assert [path.name for path in other.iterdir()] == ["kept"]


def pins(path: Path) -> dict[str, str]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


# As many parts of the version make a release line. The metadata refuse lines outside those that were run.
LINES = {
    "horovod": 3,
    "keras": 2,
    "mlflow": 2,
    "numpy": 2,
    "pandas": 2,
    "petastorm": 3,
    "pyarrow": 1,
    "pyspark": 2,
    "tensorflow-cpu": 2,
}
# The first lines of packages of which earlier ones than the pinned were run, as docs/compatibility.md says.
EARLIER = {"keras": (3, 10), "mlflow": (3, 0), "tensorflow-cpu": (2, 19)}


def requirements() -> list[Requirement]:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = metadata["optional-dependencies"]
    return [Requirement(text) for text in (*metadata["dependencies"], *extras["cpu"], *extras["connect"])]


def test_each_stack_pins_the_same_packages_within_the_ranges_of_the_metadata() -> None:
    primary = pins(ROOT / "conf/constraints.txt")
    for path in PINS:
        chosen = pins(path)
        assert chosen.keys() == primary.keys()
        unfit = [f"{r}: {chosen[r.name]}" for r in requirements() if not r.specifier.contains(chosen[r.name])]
        assert unfit == []


@pytest.mark.parametrize(("stack", "directory"), [("", ".venv"), ("primary", ".venv"), ("newest", ".venv-newest")])
def test_a_shell_gets_the_stack_that_it_names(stack: str, directory: str, checkout: Path) -> None:
    for name in (".venv", ".venv-newest"):
        (checkout / name / "bin").mkdir(parents=True)
        (checkout / name / "bin" / "python").symlink_to("/bin/true")
    ran = shell(checkout, 'echo "${PATH%%:*} $PYSPARK_PYTHON"', SPARK_DL_STACK=stack)
    assert ran.stdout.split() == [str(checkout / directory / "bin"), str(checkout / directory / "bin/python")]


def test_a_shell_is_told_how_to_make_a_stack_that_is_missing(checkout: Path) -> None:
    ran = shell(checkout, 'echo "$PATH"', SPARK_DL_STACK="newest")
    assert ran.stdout.strip() == os.environ["PATH"]
    assert ran.stderr == f"{checkout}/.venv-newest is missing: run scripts/setup.sh --stack newest first\n"


def shell(checkout: Path, program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A shell that sources env.sh."""
    command = ["bash", "-c", f". scripts/env.sh; {program}"]
    environment = {**os.environ, **settings}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)


def test_the_ranges_of_the_metadata_end_at_what_was_run() -> None:
    ranges = {requirement.name: requirement.specifier for requirement in requirements()}
    for name, parts in LINES.items():
        pinned = [tuple(map(int, pins(path)[name].split(".")[:parts])) for path in PINS]
        lines = sorted({*pinned, EARLIER.get(name, min(pinned))})
        assert name not in EARLIER or ranges[name].contains(".".join(map(str, (*EARLIER[name], 99)))), name
        (*start, last), (*end, final) = lines[0], lines[-1]
        outside = [(*end, final + 1)]
        if last:
            outside.append((*start, last - 1, 999))
        assert [line for line in outside if ranges[name].contains(".".join(map(str, line)))] == [], name
