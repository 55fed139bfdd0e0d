"""Options of a file system: what takes them, where they come from, and that no text has their values."""

from __future__ import annotations

import argparse
import copy
import json
import pickle
import traceback

import fsspec
import pyarrow as pa
import pyarrow.fs as arrow_fs
import pytest
from rows import pack

from spark_dl.cli.config import given_values, read_config
from spark_dl.cli.keys import TrainKeys, train_options
from spark_dl.data.column import Column
from spark_dl.data.specs import ConversionSpec, FeatureSpec
from spark_dl.errors import OptionError, StoreError
from spark_dl.io.filesystems import opened
from spark_dl.io.storage_options import ENVIRONMENT, StorageOptions
from spark_dl.io.store import Store
from spark_dl.redaction import redact_error, redact_value

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
    key = StorageOptions({"secret_key": "a/b+c=d e"})
    assert redact_error(error := OSError("no /?k=a%2Fb%2Bc%3Dd%20e&l=a%2Fb%2Bc%3Dd+e&m=a/b+c=d e"), key.secrets) is None
    assert str(error) == "no /?k=***&l=***&m=***"


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


def test_texts_of_booleans_are_booleans() -> None:
    def kept(url: str, options: dict[str, str]) -> dict[str, object]:
        return opened(url, StorageOptions(options))[0].__reduce__()[1][0]

    assert kept("s3://b/x?anonymous=false", {"region": "here"})["anonymous"] is False
    assert kept("s3://b/x", {"region": "here", "allow_bucket_creation": "True"})["allow_bucket_creation"] is True


@pytest.mark.parametrize("options", [{}, {"region": "here"}])
def test_blanks_and_percent_signs_of_a_url_are_parts_of_names_as_in_spark(options: dict[str, str]) -> None:
    assert opened("s3://bucket/a b/50%25 #1?region=here", StorageOptions(options))[1] == "bucket/a b/50%25 #1"


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


def test_an_error_of_a_task_has_no_values_since_spark_logs_it() -> None:
    class Refusing(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
        protocol = "refusing"
        cachable = False

        def _open(self, path: str, mode: str = "rb", **options: object) -> object:
            raise OSError(f"{path} is refused to {self.storage_options['token']}")

    fsspec.register_implementation("refusing", Refusing)
    x = Column("x", "number", "int32", 1)
    store = Store.at("refusing://x", StorageOptions({"token": SECRET}))
    conversion = ConversionSpec(store, (FeatureSpec((x,), (1,), "int32"),), ())
    with pytest.raises(OSError, match=r"is refused to \*\*\*") as refused:
        pack(conversion, pa.RecordBatch.from_pydict({"x": pa.array([1], pa.int32())}))
    assert SECRET not in "".join(traceback.format_exception(refused.value))


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
