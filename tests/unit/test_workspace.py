"""The temporary directory of a fit: gone when the `with` ends, found again when the driver was killed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from spark_dl.errors import OptionError, StoreError
from spark_dl.io.store import Store
from spark_dl.io.workspace import Workspace, clean, free_bytes

LOCAL = "local[2]"


@pytest.mark.parametrize("master", ["local[2]", "local-cluster[2,1,1024]", "local"])
def test_on_one_machine_a_temporary_directory_does(
    master: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Workspace(None, master) as store:
        assert store.is_local
        assert Path(store.path).parent == tmp_path
        store.write("block", b"rows")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_it_is_removed_when_the_with_ends_well_or_not(tmp_path: Path, error: type[BaseException] | None) -> None:
    cache = tmp_path / "cache dir"

    def fit() -> None:
        with Workspace(str(cache), "yarn") as store:
            store.child("data").make()
            store.child("data").write("block", b"rows")
            (inside,) = cache.iterdir()
            assert store.path == str(inside)
            if error:
                raise error

    with pytest.raises(error) if error else contextlib.nullcontext():
        fit()
    assert list(cache.iterdir()) == []


def test_fits_at_the_same_time_have_directories_of_their_own(tmp_path: Path) -> None:
    with Workspace(str(tmp_path), LOCAL) as one, Workspace(str(tmp_path), LOCAL) as other:
        assert one.url != other.url


@pytest.mark.parametrize("master", ["yarn", "spark://host:7077", "k8s://host", ""])
def test_a_cluster_needs_a_directory_that_is_shared(master: str) -> None:
    with pytest.raises(OptionError, match=rf"cacheDir=None on {master}\. Set cacheDir"):
        Workspace(None, master)


def test_a_cache_directory_that_can_not_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/below"), Workspace(str(tmp_path / "file" / "below"), LOCAL):
        pass


def a_leftover(cache: Path, name: str, owner: Any) -> Path:
    directory = cache / name
    directory.mkdir()
    (directory / "owner.json").write_text(owner if isinstance(owner, str) else json.dumps(owner))
    (directory / "block.parquet").write_bytes(b"rows")
    return directory


@pytest.fixture(scope="module")
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_clean_removes_what_dead_drivers_of_this_host_left(tmp_path: Path, dead: int) -> None:
    here = socket.gethostname()
    gone = a_leftover(tmp_path, "spark-dl-dead", {"host": here, "pid": dead})
    kept = [
        a_leftover(tmp_path, "spark-dl-living", {"host": here, "pid": os.getpid()}),
        a_leftover(tmp_path, "spark-dl-of-init", {"host": here, "pid": 1}),
        a_leftover(tmp_path, "spark-dl-elsewhere", {"host": "another-host", "pid": dead}),
        a_leftover(tmp_path, "spark-dl-torn", "{"),
        a_leftover(tmp_path, "someones", {"host": here, "pid": dead}),
    ]
    (tmp_path / "spark-dl-new").mkdir()
    (tmp_path / "spark-dl-file").write_text("a file")
    assert clean(str(tmp_path)) == [Store.at(str(gone)).url]
    assert not gone.exists()
    assert all((directory / "block.parquet").exists() for directory in kept)
    assert {path.name for path in tmp_path.iterdir()} == {*(k.name for k in kept), "spark-dl-new", "spark-dl-file"}
    assert clean(str(tmp_path)) == []


def test_clean_leaves_a_running_fit_alone(tmp_path: Path) -> None:
    with Workspace(str(tmp_path), LOCAL) as store:
        assert clean(str(tmp_path)) == []
        assert store.names() == ["owner.json"]


def test_clean_finds_what_a_killed_driver_left(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from spark_dl.io.workspace import Workspace\n"
        "with Workspace(sys.argv[1], 'local') as store:\n"
        "    store.write('block', b'rows')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    assert clean(str(tmp_path)) == [Store.at(str(left)).url]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "owner",
    ['{"host": "%s"}', "[]", '{"host": "%s", "pid": "x"}', '{"host": "%s", "pid": null}'],
)
def test_clean_leaves_what_it_can_not_read(tmp_path: Path, owner: str) -> None:
    a_leftover(tmp_path, "spark-dl-odd", owner.replace("%s", socket.gethostname()))
    assert clean(str(tmp_path)) == []


def test_free_space_is_told_where_it_is_known(tmp_path: Path) -> None:
    assert (free_bytes(Store.at(str(tmp_path))) or 0) > 0
    assert free_bytes(Store("s3://bucket")) is None
