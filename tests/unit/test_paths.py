"""Spellings of paths and URLs, and which of them are the same directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_dl.errors import StoreError
from spark_dl.io import paths
from spark_dl.io.paths import holds_the_process, is_name, joined, normalized, overlap, spark_path
from spark_dl.io.store import Store


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/data/x", "file:///data/x"),
        ("/data//x/", "file:///data/x"),
        ("//data/x", "file:///data/x"),
        ("/data/./y/../x", "file:///data/x"),
        ("/", "file:///"),
        ("file:/data/x", "file:///data/x"),
        ("file:///data/x/", "file:///data/x"),
        ("file:////data/x", "file:///data/x"),
        ("file://localhost/data/x", "file:///data/x"),
        ("FILE:/data/x", "file:///data/x"),
        ("file:/", "file:///"),
        ("file:data/x", "file://{here}/data/x"),
        ("file:///", "file:///"),
        ("file:/data/50%25 of it", "file:///data/50%25 of it"),
        ("/data/a b#c?d%", "file:///data/a b#c?d%"),
        ("~/data", "file:///home/me/data"),
        ("~", "file:///home/me"),
        ("data", "file://{here}/data"),
        ("./a:b", "file://{here}/a:b"),
        ("../data/", "file://{here.parent}/data"),
        ("sub/a:b", "file://{here}/sub/a:b"),
        ("/Volumes/main/default/v", "file:///Volumes/main/default/v"),
        ("hdfs:/user/me/ck", "hdfs:///user/me/ck"),
        ("hdfs:///user/me/ck/", "hdfs:///user/me/ck"),
        ("hdfs://host:8020/user/me/../you", "hdfs://host:8020/user/you"),
        ("HDFS://host/x", "hdfs://host/x"),
        ("viewfs:/models", "viewfs:///models"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3a://bucket/key/", "s3a://bucket/key"),
        ("s3n://bucket/key", "s3n://bucket/key"),
        ("s3://bucket//key//of it#1/", "s3://bucket/key/of it#1"),
        ("s3://bucket/key/?region=eu-west-1", "s3://bucket/key?region=eu-west-1"),
        ("s3://bucket?region=eu-west-1", "s3://bucket?region=eu-west-1"),
        ("gs://bucket/key", "gs://bucket/key"),
        ("abfss://container@account.dfs.core.windows.net/x/", "abfss://container@account.dfs.core.windows.net/x"),
        ("memory:/x", "memory:///x"),
    ],
)
def test_every_spelling_of_a_path_becomes_one_url(here: Path, path: str, url: str) -> None:
    expected = url.replace("{here}", str(here)).replace("{here.parent}", str(here.parent))
    assert normalized(path) == expected
    assert normalized(expected) == expected
    assert Store.at(path).url == expected


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("", "path is empty"),
        ("  ", "path is empty"),
        ("a\0b", "can't be used"),
        ("C:\\data", "Windows path"),
        ("C:/data", "Windows path"),
        ("c:", "Windows path"),
        ("\\\\server\\share", "Windows path"),
        ("file:///C:/data", "Windows path"),
        ("file:/C:\\data", "Windows path"),
        ("file:", "no path"),
        ("file://", "no path"),
        ("file://host/data", "names another host"),
        ("hdfs:user/me", "relative path"),
        ("s3:/key", "names no bucket"),
        ("s3a:///key", "names no bucket"),
        ("nowhere://x/y", "The scheme 'nowhere' is unknown"),
        ("nowhere:/x", "The scheme 'nowhere' is unknown"),
        ("cosn://bucket/x", "The scheme 'cosn' is unknown.*another storage"),
        ("wasbs://c@a.blob.core.windows.net/x", "The scheme 'wasbs' is unknown.*abfss://container@account.dfs"),
        ("run:1", r"The scheme 'run' is unknown.*Write \./"),
        ("models:/name/1", "The scheme 'models' is unknown"),
        ("~no-such-user-here/data", "home directory that doesn't exist"),
    ],
)
def test_a_path_that_means_nothing_is_refused_with_what_was_given(here: Path, path: str, told: str) -> None:
    with pytest.raises(StoreError, match=told) as refused:
        normalized(path)
    assert "Expected: a local path or a URL" in str(refused.value)
    assert path.replace("\0", "\\x00") in str(refused.value)
    assert os.listdir(here) == []


@pytest.mark.parametrize("thing", [7, None, b"data", ["data"]])
@pytest.mark.parametrize("convert", [normalized, spark_path, Store.at])
def test_what_is_no_text_is_no_path(convert: Callable[[Any], object], thing: Any) -> None:
    with pytest.raises(StoreError) as refused:
        convert(thing)
    assert repr(thing) in str(refused.value)
    assert convert(Path("data")) == convert("data")


def test_dbfs_paths_are_those_of_its_mount_or_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_DBFS", str(tmp_path))
    assert normalized("dbfs:/models/m1/") == normalized("dbfs:///models/m1") == f"file://{tmp_path}/models/m1"
    monkeypatch.setattr(paths, "_DBFS", str(tmp_path / "nowhere"))
    for path in ("dbfs:/models/m1", "dbfs:///models/m1"):
        with pytest.raises(StoreError, match=f"mount {tmp_path}/nowhere, .*Received: {path}.*nowhere/models/m1"):
            normalized(path)
    monkeypatch.setattr(paths, "_VOLUMES", str(tmp_path))
    assert normalized(f"DBFS:{tmp_path}/main/v/") == f"file://{tmp_path}/main/v"
    monkeypatch.setattr(paths, "_VOLUMES", "/no-volumes")
    with pytest.raises(StoreError, match=r"mount /no-volumes, .*where this is /no-volumes/main"):
        normalized("dbfs:/no-volumes/main")


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("models/m1", "models/m1"),
        ("file:/models/m1/", "file:///models/m1"),
        ("~/m1", "/home/me/m1"),
        ("dbfs:/models/m1", "dbfs:/models/m1"),
        ("s3a://bucket/m1", "s3a://bucket/m1"),
        ("own-scheme:/x", "own-scheme:/x"),
    ],
)
def test_spark_is_given_its_own_schemes(here: Path, path: str, given: str) -> None:
    assert spark_path(path) == given


@pytest.mark.parametrize("path", ["", "C:\\models", "D:/models", "file://host/m1", "file:", "~no-such-user-here/m1"])
def test_what_no_file_system_knows_is_not_given_to_spark(path: str) -> None:
    with pytest.raises(StoreError):
        spark_path(path)


def test_a_child_stays_before_a_query_and_below_the_root() -> None:
    assert Store.at("s3://b/k?endpoint_override=localhost:9000").child("x").url == (
        "s3://b/k/x?endpoint_override=localhost:9000"
    )
    assert Store.at("/").child("data").url == "file:///data"
    assert Store.at("/a?b").child("c").url == "file:///a?b/c"
    assert Store.at("hdfs:/").child("data").url == "hdfs:///data"
    assert joined("memory://", "x") == "memory:///x"


NAMES = st.text(st.characters(exclude_characters="/\\\0:", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_local_paths_are_kept_as_they_are_and_normalized_once(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    assert normalized(path) == normalized(f"file:{path}") == normalized(f"file://{path}/") == f"file://{path}"
    assert normalized(normalized(path)) == normalized(path)
    assert all(is_name(part) for part in parts)
    assert joined(normalized("/"), parts[0]) == normalized(f"/{parts[0]}")


@given(st.sampled_from(["hdfs", "s3", "s3a", "gs", "memory"]), st.lists(st.from_regex(r"[a-z0-9_=-]+", fullmatch=True)))
def test_urls_are_normalized_once(scheme: str, parts: list[str]) -> None:
    url = "/".join([f"{scheme}://host", *parts])
    assert normalized(f"{url}/") == normalized(url) == url
    assert overlap(url, joined(url, "below"))
    assert overlap(joined(url, "below"), url)
    assert not overlap(joined(url, "one"), joined(url, "other"))


# --- the same directory ------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """data/in/part, a link to data, one to data/in, and one within a directory."""
    (tmp_path / "data" / "in" / "part").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "other" / "deep").symlink_to(tmp_path / "data" / "in")
    (tmp_path / "loop").symlink_to(tmp_path / "link")
    return tmp_path


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("data/in", "data/in/", True),
        ("data/in", "other/../data/in", True),
        ("data/in", "link/in", True),
        ("data/in", "loop/in", True),
        ("data/in", "other/deep", True),
        ("data/in", "other/deep/part", True),
        ("data/in/part", "other/deep", True),
        ("data/in", "link", True),
        ("data/in", "data/in/new/below", True),
        ("data/in", "other/deep/new", True),
        ("data", "other", False),
        ("data/in", "data/in2", False),
        ("data/in", "data/i", False),
        ("data/in", "other", False),
        ("data/in", "new", False),
    ],
)
def test_local_directories_are_compared_as_the_system_resolves_them(
    tree: Path, one: str, other: str, same: bool
) -> None:
    assert overlap(normalized(f"{tree}/{one}"), normalized(f"file:{tree}/{other}")) is same
    assert overlap(normalized(f"{tree}/{other}"), normalized(f"{tree}/{one}")) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("s3://bucket/in", "s3a://bucket/in/", True),
        ("s3://bucket/in", "s3n://key:secret@bucket/in/part", True),
        ("s3://bucket/in?region=x", "s3://bucket", True),
        ("s3://bucket/in", "s3://bucket/in2", False),
        ("s3://bucket/in", "s3://other/in", False),
        ("hdfs://host/in", "hdfs:/in", True),
        ("hdfs://host/in", "HDFS://HOST/in/x/..", True),
        ("hdfs://host/in", "hdfs://other/in", False),
        ("s3://bucket/in", "gs://bucket/in", False),
        ("/bucket/in", "s3://bucket/in", False),
        ("abfss://a@account/in", "abfs://a@account/in", True),
        ("abfs://a@account/in", "abfs://b@account/in", False),
    ],
)
def test_urls_are_compared_without_what_does_not_tell_directories_apart(one: str, other: str, same: bool) -> None:
    assert overlap(normalized(one), normalized(other)) is same
    assert overlap(normalized(other), normalized(one)) is same


def test_directories_that_hold_the_process_are_known(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (here / "below").mkdir()
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(here.parent)
    assert all(holds_the_process(normalized(str(path))) for path in (here, here.parent, "/", link, "~", "/home"))
    assert not any(holds_the_process(normalized(path)) for path in ("below", "new", "/home/you", "s3://bucket"))


# --- names -------------------------------------------------------------------------------------------------------


OUTSIDE = ["", ".", "..", "/etc/passwd", "../x", "a/../../x", "a/b", "a\\b", "..\\x", "a\0b", "s3://b/k", "file:///x"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_of_a_directory_are_refused_everywhere(tmp_path: Path, name: str) -> None:
    store = Store.at(str(tmp_path / "inner"))
    store.make()
    (tmp_path / "x").write_text("dear")
    for act in (store.child, store.read, store.remove, lambda given: store.write(given, b"")):
        with pytest.raises(StoreError, match="leads out of its directory"):
            act(name)
    assert (tmp_path / "x").read_text() == "dear"
    assert store.names() == []
