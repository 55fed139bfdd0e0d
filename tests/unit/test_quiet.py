"""Imports without start-up lines."""

from __future__ import annotations

import os

import pytest

from spark_dl.quiet import quiet_imports


def _fail_to_import() -> None:
    with quiet_imports():
        os.write(2, b"the cause")
        raise ImportError


def test_imports_write_nothing_unless_they_fail(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_imports():
        os.write(2, b"start-up lines")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
    with pytest.raises(ImportError):
        _fail_to_import()
    assert capfd.readouterr().err == "the cause"
