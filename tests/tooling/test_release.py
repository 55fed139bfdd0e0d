"""The package's metadata: its version has a section in the changelog, and what it requires is pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import spark_dl

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_latest_in_the_changelog() -> None:
    sections = re.findall(r"^## \[(.+)\](?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    version, date = sections[1]
    assert version == spark_dl.__version__
    assert date


def test_each_requirement_is_pinned_within_its_range() -> None:
    lines = (ROOT / "conf" / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert [name for name in pins if name != canonicalize_name(name)] == []
    extras = PROJECT["optional-dependencies"].values()
    for requirement in map(Requirement, [*PROJECT["dependencies"], *(each for extra in extras for each in extra)]):
        if requirement.name == PROJECT["name"]:  # an extra that takes in another one
            assert requirement.extras <= set(PROJECT["optional-dependencies"])
            continue
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
