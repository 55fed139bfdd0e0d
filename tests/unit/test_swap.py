"""Directories that are replaced whole: whatever happens, the old one or the new one is there."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from spark_dl.errors import StoreError
from spark_dl.io import swap
from spark_dl.io.store import Store
from spark_dl.io.swap import check_replaceable, replacing


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A directory with something in it, beside nothing else."""
    directory = tmp_path / "there"
    (directory / "below").mkdir(parents=True)
    (directory / "below" / "file").write_text("old")
    directory.chmod(0o750)
    return directory


def write_new(store: Store) -> None:
    store.child("sub").make()
    store.child("sub").write("file", b"new")
    store.write("_SUCCESS", b"")


def assert_new(directory: Path) -> None:
    assert sorted(str(path.relative_to(directory)) for path in directory.rglob("*")) == ["_SUCCESS", "sub", "sub/file"]
    assert (directory / "sub" / "file").read_text() == "new"


@pytest.mark.parametrize("exchanges", [True, False], ids=["in one step", "where the system can't exchange"])
def test_the_new_directory_takes_the_place_of_the_old_one(
    old: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(swap, "_exchange", lambda one, other: False)
    with replacing(Store.at(str(old))) as aside:
        write_new(aside)
        assert (old / "below" / "file").read_text() == "old"
    assert_new(old)
    assert stat.S_IMODE(old.stat().st_mode) == 0o750
    assert os.listdir(old.parent) == ["there"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_one_and_nothing_beside(old: Path, error: type[BaseException]) -> None:
    def fail(target: Path) -> None:
        with replacing(Store.at(str(target))) as aside:
            write_new(aside)
            raise error

    for target in (old, old.parent / "new", old.parent / "new" / "and" / "deep"):
        with pytest.raises(error):
            fail(target)
    assert (old / "below" / "file").read_text() == "old"
    assert os.listdir(old.parent) == ["there"]


def test_a_killed_process_leaves_the_old_one_whole(old: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from spark_dl.io.store import Store\n"
        "from spark_dl.io.swap import replacing\n"
        "with replacing(Store.at(sys.argv[1])) as aside:\n"
        "    aside.write('file', b'new')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(old)], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert [str(path.relative_to(old)) for path in old.rglob("*")] == ["below", "below/file"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(old: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(old)
    with replacing(Store.at(f"file:{elsewhere}/link/")) as aside:
        write_new(aside)
    assert (elsewhere / "link").is_symlink()
    assert_new(old)
    assert os.listdir(elsewhere) == ["link"]


def test_what_comes_to_exist_meanwhile_is_not_replaced_without_leave(tmp_path: Path) -> None:
    target = tmp_path / "new"

    def write_late() -> None:
        with replacing(Store.at(str(target)), overwrite=False) as aside:
            write_new(aside)
            target.mkdir()
            (target / "theirs").write_text("theirs")

    with pytest.raises(StoreError, match="can't be written"):
        write_late()
    assert (target / "theirs").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["new"]


def test_a_new_directory_in_an_object_store_is_not_replaced_without_leave() -> None:
    parent = Store.at("memory://swap/new")
    with replacing(parent.child("there"), overwrite=False) as aside:
        write_new(aside)
    assert parent.child("there").names() == ["_SUCCESS", "sub"]

    def write_again() -> None:
        with replacing(parent.child("there"), overwrite=False) as aside:
            aside.write("other", b"")

    with pytest.raises(StoreError, match="come to exist meanwhile"):
        write_again()
    assert parent.child("there").names() == ["_SUCCESS", "sub"]
    assert parent.names() == ["there"]


def test_an_object_store_gets_file_by_file_what_stays_whole_beside_until_then() -> None:
    target = Store.at("memory://swap/models/there")
    target.make()
    target.write("old", b"old")
    with replacing(target) as aside:
        write_new(aside)
        assert target.names() == ["old"]
    assert target.names() == ["_SUCCESS", "sub"]
    assert target.child("sub").read("file") == b"new"
    assert Store.at("memory://swap/models").names() == ["there"]


class FullStore(MemoryFileSystem):
    """An object store that is full when files are to be copied to their place."""

    protocol = "full"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.replace("full://", "memory://"))
        return stripped

    def cp_file(self, path1: str, path2: str, **options: object) -> None:
        if "/there/" in path2:
            raise OSError("no space left")
        super().cp_file(path1, path2, **options)


def test_where_a_copy_fails_the_error_names_the_new_one_which_is_whole() -> None:
    fsspec.register_implementation("full", FullStore, clobber=True)
    parent = Store.at("full://swap/failing")
    parent.child("there").make()

    def write() -> None:
        with replacing(parent.child("there")) as aside:
            write_new(aside)

    told = r"failing/there can't be replaced.*no space left.*failing/\.there-\w+ holds the new directory whole"
    with pytest.raises(StoreError, match=told):
        write()
    (left,) = [name for name in parent.names() if name.startswith(".there-")]
    assert parent.child(left).names() == ["_SUCCESS", "sub"]
    assert parent.child(left).child("sub").read("file") == b"new"


def test_what_can_not_be_replaced_is_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for path, told in (
        (".", "neither the working directory"),
        (str(tmp_path.parent), "neither the working directory"),
        ("/", "neither the working directory"),
        ("~", "nor the home directory"),
        ("file", "output is a file"),
        ("memory://bucket", "whole bucket"),
    ):
        with pytest.raises(StoreError, match=told):
            check_replaceable(Store.at(path))
    check_replaceable(Store.at("new"))
    check_replaceable(Store.at(str(tmp_path_factory.mktemp("other"))))
