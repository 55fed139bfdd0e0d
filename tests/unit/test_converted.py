"""Converted rows that nobody closes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spark_dl.errors import StoreError
from spark_dl.fit.converted import ConvertedData
from spark_dl.io.store import Store
from spark_dl.io.workspace import Workspace

HANDLE = """
import contextlib, os, sys
from spark_dl.fit.converted import ConvertedData
from spark_dl.io.workspace import Workspace

def handle(directory):
    owned = contextlib.ExitStack()
    store = owned.enter_context(Workspace(directory, "local"))
    store.write("block", b"rows")
    return ConvertedData(1, 0, 4, None, None, (), None, None, None, owned)
"""


def handle(directory: Path) -> ConvertedData:
    owned = contextlib.ExitStack()
    owned.enter_context(Workspace(str(directory), "local")).write("block", b"rows")
    return ConvertedData(1, 0, 4, None, None, (), None, None, None, owned)  # type: ignore[arg-type]


def test_rows_are_removed_with_the_last_reference(tmp_path: Path) -> None:
    one, two = handle(tmp_path), handle(tmp_path)
    also = one
    del one
    assert len(os.listdir(tmp_path)) == 2
    del also
    assert len(os.listdir(tmp_path)) == 1
    two.close()
    two.close()
    assert os.listdir(tmp_path) == []
    with pytest.raises(StoreError, match="have been removed"):
        two.dataset_for(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ending",
    [
        "kept = handle(sys.argv[1])",
        "kept = handle(sys.argv[1]); raise ValueError",
        "kept = handle(sys.argv[1]); exit()",
    ],
)
def test_rows_are_removed_as_the_process_ends(tmp_path: Path, ending: str) -> None:
    subprocess.run([sys.executable, "-c", HANDLE + ending, str(tmp_path)], check=False, stderr=subprocess.DEVNULL)
    assert os.listdir(tmp_path) == []


def test_a_forked_process_does_not_remove_what_is_not_its_own(tmp_path: Path) -> None:
    forking = (
        "kept = handle(sys.argv[1])\nif os.fork() == 0:\n    sys.exit()\nos.wait()\nprint(*os.listdir(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", HANDLE + forking, str(tmp_path)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    assert ran.stdout.startswith("spark-dl-")
    assert os.listdir(tmp_path) == []


def test_rows_that_were_left_by_a_failing_handle_are_removed(tmp_path: Path) -> None:
    class NoFrame:
        """A DataFrame whose session is gone."""

        @property
        def schema(self) -> object:
            raise ConnectionError("gone")

    class Counted:
        bytes = 0

        def rows(self, validation: bool) -> int:
            return 0

    owned = contextlib.ExitStack()
    store: Store = owned.enter_context(Workspace(str(tmp_path), "local"))
    assert store.names() == ["owner.json"]
    with pytest.raises(ConnectionError):
        ConvertedData.of(NoFrame(), Counted(), None, None, owned)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []
