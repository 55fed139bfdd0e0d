"""Directories by URL: files that appear whole, names that stay what they are, errors that name the directory."""

from __future__ import annotations

import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spark_dl.data.readers import check_reader, reader
from spark_dl.errors import OptionError, SparkDLError, StoreError
from spark_dl.io.paths import missing_package
from spark_dl.io.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(str(tmp_path))


def test_what_is_written_is_read_and_replaced_whole(store: Store) -> None:
    for content in (b"one", b"", b"\x00" * 100_000, b"two"):
        store.write("file", content)
        assert store.read("file") == content
        assert store.names() == ["file"]


def test_a_failing_write_leaves_the_old_file_and_nothing_beside(store: Store) -> None:
    store.write("model.keras", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # as on a full disk
    try:
        with pytest.raises(StoreError, match=r"Can't write model\.keras in file:///.*OSError"):
            store.write("model.keras", b"new" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.read("model.keras") == b"old"
    assert store.names() == ["model.keras"]


def test_a_write_that_is_interrupted_leaves_the_old_file_and_nothing_beside(store: Store) -> None:
    store.write("file", b"old")
    with pytest.raises(TypeError):
        store.write("file", 3)  # type: ignore[arg-type]
    assert store.read("file") == b"old"
    assert store.names() == ["file"]


@pytest.mark.parametrize("name", ["with blank", "50%25", "50%", "a#b?c", "ümläut", "..hidden"])
def test_names_and_paths_are_kept_as_they_are(tmp_path: Path, name: str) -> None:
    store = Store.at(str(tmp_path / name)).child(name)
    store.make()
    store.write(name, b"content")
    assert (tmp_path / name / name / name).read_bytes() == b"content"
    assert store.names() == [name]
    assert store.read(name) == b"content"
    assert store.path == str(tmp_path / name / name)
    store.delete()
    assert [path.name for path in (tmp_path / name).iterdir()] == []


def test_paths_mean_the_same_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert Store.at("data/").url == f"file://{tmp_path}/data"
    assert Store.at("../data").url == f"file://{tmp_path.parent}/data"
    assert Store.at("~/data").url == "file:///home/me/data"
    assert Store.at("/data//x/").url == "file:///data/x"
    assert Store.at("file:///data/").url == "file:///data"
    assert Store.at("s3://bucket/key/").url == "s3://bucket/key"
    assert [Store.at(path).is_local for path in ("/data", "file:///data", "s3://bucket", "hdfs://h/p")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_store_is_a_value_that_travels(store: Store) -> None:
    store.write("a", b"1")
    back = pickle.loads(pickle.dumps(store))
    assert back == store
    assert back.read("a") == b"1"


def test_stores_of_other_schemes_are_opened_too() -> None:
    store = Store.at("memory://unit-test-store/data")
    store.make()
    store.write("a", b"1")
    store.write("a", b"2")
    assert (store.names(), store.read("a"), store.is_local) == (["a"], b"2", False)
    store.remove("a")
    assert store.names() == []
    store.delete()


def test_removing_and_deleting_what_is_gone_does_no_harm(store: Store, tmp_path: Path) -> None:
    store.write("a", b"1")
    store.child("sub").make()
    store.child("sub").write("b", b"2")
    store.remove("a")
    store.remove("a")
    store.remove("sub")  # a directory is no file
    assert store.names() == ["sub"]
    store.delete()
    store.delete()
    assert not tmp_path.exists()
    assert store.names() == []


def test_making_a_directory_makes_its_parents_and_keeps_what_is_there(store: Store) -> None:
    deep = store.child("a").child("b")
    deep.make()
    deep.write("c", b"1")
    deep.make()
    assert deep.read("c") == b"1"


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda store: store.read("missing"), "Can't read missing in"),
        (lambda store: store.child("no").write("a", b""), "Can't write a in .*/no"),
        (lambda store: store.child("file").make(), "Can't create the directory in .*/file"),
        (lambda store: store.child("file").names(), "Can't list the directory in .*/file"),
        (lambda store: store.child("file").child("x").write("a", b""), "Can't write a in .*/file/x"),
    ],
)
def test_errors_name_the_directory_the_cause_and_a_way_out(
    store: Store, act: Callable[[Store], Any], told: str
) -> None:
    store.write("file", b"")
    with pytest.raises(StoreError, match=told) as caught:
        act(store)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value.__cause__, Exception)
    assert "Received: " in str(caught.value)
    assert "Check the path" in str(caught.value)


def test_a_directory_without_permission_is_an_error(store: Store, tmp_path: Path) -> None:
    own = os.geteuid()
    tmp_path.chmod(0o500)
    if own == 0:  # root may write everywhere: for a moment somebody else
        os.seteuid(65534)
    try:
        with pytest.raises(StoreError, match="Permission"):
            store.write("a", b"")
    finally:
        os.seteuid(own)
        tmp_path.chmod(0o700)


def test_an_unknown_scheme_is_an_error_that_names_the_url() -> None:
    with pytest.raises(SparkDLError, match="nowhere://x"):
        Store.at("nowhere://x").write("a", b"")


@pytest.mark.parametrize("url", ["oci://bucket@namespace/x", "dropbox://host/x", "sftp://host/x"])
def test_a_scheme_whose_package_is_missing_names_it(url: str) -> None:
    store = Store.at(url)
    package = missing_package(store.url)
    assert package in ("ocifs", "dropboxdrivefs", "paramiko")
    for action in (store.make, store.names, store.open, lambda: store.write("a", b"")):
        with pytest.raises(StoreError, match=rf"The package {package} isn't installed here.*pip install {package}"):
            action()


def test_what_pyarrow_does_not_take_of_a_url_is_in_the_error() -> None:
    with pytest.raises(StoreError, match=r"Can't create the directory in s3://b/x\?regoin=y.*Received: .*regoin"):
        Store.at("s3://b/x?regoin=y").make()


def test_hdfs_without_hadoops_library_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HADOOP_HOME", "ARROW_LIBHDFS_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    for url in ("hdfs://host:8020/x", "hdfs:///x", "viewfs://cluster/x"):
        with pytest.raises(StoreError, match=r"Hadoop's client library can't be loaded.*Set JAVA_HOME, HADOOP_HOME"):
            Store.at(url).make()


def test_petastorm_is_refused_by_name_for_what_it_cant_read(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"Petastorm reads local directories only.*Set reader='auto'"):
        check_reader("petastorm", "s3://bucket/x")
    with pytest.raises(OptionError, match="without # and"):  # it would take these for parts of a URL
        check_reader("petastorm", str(tmp_path / "a#b?c"))
    check_reader("petastorm", str(tmp_path))
    check_reader("auto", "s3://bucket/x")
    assert reader("auto", "s3://bucket/x") is reader("arrow")
    assert reader("auto", f"file://{tmp_path}/a#b") is reader("arrow")
    assert reader("auto", f"file://{tmp_path}") is reader("auto")
