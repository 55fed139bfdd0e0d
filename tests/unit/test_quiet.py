"""Imports without start-up lines."""

from __future__ import annotations

import os

import pytest

from spark_dl.quiet import quiet_imports


def _fail_to_import() -> None:
    with quiet_imports():
        os.write(2, b"the cause")
        raise ImportError


_START_UP = b"""WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795910465.512674    3797 port.cc:153] oneDNN custom operations are on.
2026-11-28 23:00:00.123456: W tensorflow/core/util/port.cc:153] oneDNN custom operations are on.
To enable the following instructions: AVX2, rebuild TensorFlow with the appropriate compiler flags.
"""


def test_imports_write_no_start_up_lines_unless_they_fail(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_imports():
        os.write(2, _START_UP + b"another thread's\n2026-11-28 23:00:00.1: E tensorflow/x.cc:1] an error\n")
    os.write(2, b"after")
    shown = capfd.readouterr().err.splitlines()
    assert shown == ["another thread's", "2026-11-28 23:00:00.1: E tensorflow/x.cc:1] an error", "after"]
    with pytest.raises(ImportError):
        _fail_to_import()
    assert capfd.readouterr().err == "the cause"
