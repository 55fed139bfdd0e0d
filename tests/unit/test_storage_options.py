"""Options of a file system: what takes them, where they come from, and that no text has their values."""

from __future__ import annotations

import argparse
import copy
import json
import pickle

import fsspec
import pyarrow.fs as arrow_fs
import pytest

from spark_dl.cli.config import given_values, read_config
from spark_dl.cli.keys import TrainKeys, train_options
from spark_dl.errors import OptionError, StoreError
from spark_dl.io.filesystems import opened
from spark_dl.io.storage_options import ENVIRONMENT, StorageOptions
from spark_dl.io.store import Store
from spark_dl.redaction import redact_value

SECRET = "S3" + "CRET"


def test_no_text_has_the_values() -> None:
    options = StorageOptions({"secret_key": SECRET, "region": "here", "retries": 3})
    store = Store.at("s3://bucket/x", options).child("y")
    for text in (str(options), f"{options}", repr([options]), str(redact_value({"x": options})), repr(store)):
        assert SECRET not in text
        assert "here" not in text
    with pytest.raises(TypeError):
        json.dumps(options)
    assert store.options == pickle.loads(pickle.dumps(store)).options == copy.deepcopy(options) == dict(options)
    assert options.secrets == (SECRET,)


def test_the_variable_of_the_driver_takes_the_params_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, json.dumps({"account_key": SECRET}))
    assert dict(StorageOptions.of(None)) == {"account_key": SECRET}
    assert dict(StorageOptions.of({"region": "here"})) == {"region": "here"}
    assert dict(StorageOptions.of({})) == {}
    for text in (f"account_key={SECRET}", f'["{SECRET}"]', f'{{"a": ["{SECRET}"]}}'):
        monkeypatch.setenv(ENVIRONMENT, text)
        with pytest.raises(OptionError, match=ENVIRONMENT) as refused:
            StorageOptions.of(None)
        assert SECRET not in str(refused.value)


@pytest.mark.stack
def test_pyarrow_takes_them_as_keyword_arguments() -> None:
    options = StorageOptions({"access_key": "me", "secret_key": SECRET, "session_token": "now"})
    filesystem, path = opened("s3://bucket/x/?region=eu-west-1", options)
    assert isinstance(filesystem, arrow_fs.S3FileSystem)
    assert (filesystem.region, path) == ("eu-west-1", "bucket/x")
    until = {"access_token": SECRET, "credential_token_expiration": "2030-01-01T00:00:00"}
    assert isinstance(opened("gs://bucket/x", StorageOptions(until))[0], arrow_fs.GcsFileSystem)


def test_fsspec_takes_them_where_pyarrow_has_no_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recording(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
        protocol = "recording"
        cachable = False

    fsspec.register_implementation("recording", Recording)
    filesystem, _ = opened("recording://x/y", StorageOptions({"token": SECRET, "port": 7}))
    assert filesystem.handler.fs.storage_options == {"token": SECRET, "port": 7}


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("s3://bucket/x", {"secret_kye": SECRET}, "pyarrow.fs.S3FileSystem.*secret_kye.*storage.md"),
        ("s3://bucket/x", {"secret_key": SECRET}, "doesn't take these storageOptions"),
        (f"s3://me:{SECRET}@bucket/x", {"region": "here"}, "credentials in the URL and storageOptions"),
        ("gs://bucket/x", {"credential_token_expiration": SECRET}, "doesn't take these storageOptions"),
        ("hdfs://host:1/x", {"pasword": SECRET}, "pyarrow.fs.HadoopFileSystem.*pasword"),
    ],
)
def test_options_that_the_file_system_refuses_are_one_error(url: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(StoreError, match=f"(?s){words}") as refused:
        opened(url, StorageOptions(options))
    error: BaseException | None = refused.value
    while error is not None:
        assert SECRET not in f"{error} {error.args}"
        error = error.__cause__


def test_a_configuration_has_them_as_a_key_and_errors_have_no_values() -> None:
    known = train_options()
    config = read_config({"storageOptions": {"secret_key": SECRET}}, TrainKeys, known)
    assert dict(config.options["storageOptions"]) == {"secret_key": SECRET}
    assert SECRET not in str(config)
    for assignment, words in {"=": "The value of storageOptions isn't YAML", ":": "--set can't be read"}.items():
        given = argparse.Namespace(assignments=[f"storageOptions{assignment}{{secret_key: {SECRET}"])
        with pytest.raises(OptionError, match=words) as unread:
            given_values(given)
        assert SECRET not in str(unread.value)
    for wrong in ([SECRET], SECRET, {"secret_key": {"x": SECRET}}, {1: SECRET}):
        with pytest.raises(OptionError, match=r"storageOptions=\*\*\*") as refused:
            read_config({"storageOptions": wrong}, TrainKeys, known)
        assert SECRET not in str(refused.value)
