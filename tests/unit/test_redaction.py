"""Credentials in texts: what is replaced, what isn't a credential, and exceptions with all that led to them."""

from __future__ import annotations

import importlib.util
import pickle
import re
import traceback
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spark_dl.errors import OptionError, RankError, StoreError, explain
from spark_dl.io.store import Store
from spark_dl.launch.failure import of_exception
from spark_dl.redaction import is_redacted, redact, redact_value, redacted_errors

SECRET = "S3CRET"  # noqa: S105


@pytest.mark.parametrize(
    "text",
    [
        "ftp://alice:S3CRET@host:21/ck",
        "Can't open 'ftp://alice:S3CRET@host/ck'.",
        "ftp://alice:p@S3CRET@host/ck",
        "ftp://alice:p/S3CRET@host/ck",
        "ftp://alice:p/x@S3CRET@host/ck",
        "ftp://alice:12/S3CRET@host/ck",
        "ftp://alice:12/34/S3CRET@10.0.0.1:21/ck",
        "['http://alice:0/S3CRET@host']",
        "ftp://user.name:12/S3CRET@host/ck",
        "http://user.name:12/S3CRET@host",
        "https://first.last:007/S3CRET@files.example.com/ck",
        "http://alice:70000/S3CRET@host",
        "http://alice:5000/S3CRET@127.0.0.1:1",
        "http://user.name:5000/a/S3CRET@mlflow.internal:8080/x",
        "http://alice:8080/S3CRET@10.0.0.1/x",
        "http://alice:8080/S3CRET@localhost",
        "http://alice:8080/S3CRET@[::1]:5000",
        "ftp://alice:2024/S3CRET@host/ck",
        "ftp://user.name:2024/S3CRET@host",
        "s3://KEY:2024/S3CRET+x/y@bucket/x",
        "postgresql+psycopg2://alice:2024/S3CRET@db/mlflow",
        "ftp://alice:12?S3CRET@host/ck",
        "ftp://alice:12#S3CRET@host/ck",
        "http://alice:12/a@S3CRET@host",
        "http://alice:123456789012/S3CRET@host",
        "ftp://alice:p'S3CRET@host/ck",
        "['ftp://alice:p'S3CRET@host/ck', 'a@b.c']",
        'ftp://alice:"S3CRET@host/ck',
        "https://alice:p<S3CRET>x@host/ck",
        "{'password': 'p\\'S3CRET'}",
        "https://S3CRET@github.com/me/repository",
        "https://S3CRET:x-oauth-basic@host/x",
        "https://:S3CRET@host",
        "hdfs://me:S3CRET@host/x",
        "abfss://container:S3CRET@account/x",
        "simplecache::ftp://alice:S3CRET@host/ck",
        "s3://KEY:S3CRET@bucket/x?region=eu",
        "postgresql+psycopg2://alice:S3CRET@host:5432/mlflow",
        "https://host/x?sv=1&sig=S3CRET&se=2",
        "https://host/x?token=S3CRET#part",
        "https://host/x?X-Amz-Signature=S3CRET&X-Amz-Expires=60",
        "s3://bucket/x?access_key=S3CRET&secret_key=S3CRET",
        "file:///tmp/x?api_key=S3CRET",
        "sc://host:15002/;user_id=me;token=S3CRET",
        "jdbc:sqlserver://host;user=sa;password=S3CRET;database=x",
        "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=S3CRET==;EndpointSuffix=core.windows.net",
        "HTTPConnectionPool(host='alice', port=12): Max retries exceeded with url: /S3CRET@127.0.0.1:1/health",
        "Authorization: Basic S3CRET",
        "{'Authorization': 'Bearer S3CRET', 'Accept': '*/*'}",
        'the header "authorization": "S3CRET"',
        "curl -H 'Authorization: token S3CRET'",
        "Bearer S3CRETS3CRET",
        "FTPFileSystem(host='h', username='alice', password='S3CRET')",
        '{"aws_secret_access_key": "S3CRET"}',
        "AWS_SECRET_ACCESS_KEY=S3CRET",
    ],
)
def test_credentials_are_replaced_wherever_they_stand(text: str) -> None:
    assert SECRET not in redact(text)
    assert "***" in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "abfss://container@account.dfs.core.windows.net/data",
        "wasbs://container@account.blob.core.windows.net/data",
        "hdfs://me@namenode:8020/data",
        "http://localhost:5000/users/me@host",
        "http://mlflow.internal:5000/users/me@host",
        "http://10.0.0.1:5000/users/me@host",
        "http://mlflow:5000/users of a@b.c",
        "http://shorthost:5000/x@y",
        "http://shorthost:5000/x@y.z/runs?a=b@c",
        "https://mlflow:443/users/me@host",
        "http://registry:4873/@scope/package",
        "http://mlflow:5000/a@b: no answer",
        "http://localhost:1/x@host:8080",
        "http://127.0.0.1:1/x@y",
        "http://[::1]:5000/x@y",
        "hdfs://namenode:8020/data/day@noon",
        "webhdfs://namenode.internal:9870/me@home",
        "spark://master:7077/x@y",
        "ftp://files:21/x@y",
        "postgresql+psycopg2://db:5432/mlflow@main",
        "mongodb://db:27017/a@b",
        "http://shorthost:5000?user=me@host",
        "https://host/x, of a@b.c",
        "models:/price@champion",
        '{"url": "ftp://host:21", "mail": "me@host"}',
        '{"url":"ftp://host:21/x","mail":"me@host"}',
        "['ftp://host:21','me@host']",
        "<a href='http://host:80'>me@host</a>",
        "sqlite:////tmp/mlflow.db",
        "s3://bucket/x?region=eu&endpoint_override=localhost",
        "{'token': 'ids', 'key': 'user'}",
        "the column token: array<int>",
        "batchSize=32; epochs=2; monitorMode='min'",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redact(text) == text


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(["ftp", "http", "https", "s3", "postgresql", "mysql+pymysql", "hdfs"]),
    st.from_regex(r"[a-z][a-z0-9._-]{0,9}", fullmatch=True),
    st.text("abz019.:/@?#!$&+*=~-", min_size=0, max_size=6),
    st.sampled_from(["10.0.0.1", "host:8080", "files.example.com:21/ck", "[::1]:5000/x"]),
)
def test_no_password_of_any_characters_is_left(scheme: str, user: str, password: str, host: str) -> None:
    assume(not re.search("@.*[/?#]", password))  # another URL, where the @ ends the password
    assert SECRET not in redact(f"{scheme}://{user}:{password}{SECRET}@{host}")
    assert redact(f"{scheme}://{user}:{password}{SECRET}@{host}").endswith(f"***@{host}")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.sampled_from(["http", "https", "hdfs", "grpc"]),
    st.from_regex(r"[a-z][a-z0-9-]{0,9}(\.[a-z]{2,6}){0,2}", fullmatch=True),
    st.integers(1024, 65535),
    st.lists(st.from_regex(r"[a-z0-9._-]{1,6}", fullmatch=True), max_size=3),
    st.from_regex(r"[a-z]{1,6}@[a-z]{1,6}(\.[a-z]{2,3})?", fullmatch=True),
)
def test_a_port_and_a_path_are_left(scheme: str, host: str, port: int, parts: list[str], last: str) -> None:
    url = f"{scheme}://{host}:{port}/" + "/".join([*parts, last])
    assert redact(url) == url or last.endswith("@localhost")


def test_the_rest_of_an_address_can_be_read() -> None:
    assert redact("ftp://alice:S3CRET@host:21/ck?a=1") == "ftp://***@host:21/ck?a=1"
    assert redact_value({"a": ["ftp://a:b@c", 3], "b": ("ftp://a:b@c",)}) == {
        "a": ["ftp://***@c", 3],
        "b": ("ftp://***@c",),
    }
    assert redact_value({"Authorization": "x", "client_secret": "x", "token": "ids"}) == {
        "Authorization": "***",
        "client_secret": "***",
        "token": "ids",
    }


def test_a_long_text_takes_no_long_time() -> None:
    text = "a.b-c/" * 20_000 + "x" * 100_000 + "=a.a"
    assert redact(text) == text


URL = "ftp://alice:S3CRET@host/ck"


@pytest.mark.parametrize(
    "error",
    [
        OptionError(f"cacheDir={URL}"),
        StoreError(explain("No.", expected=URL, received=URL, fix=URL)),
        RankError(URL, rank_traceback=URL, rank_log=URL),
    ],
)
def test_no_error_of_ours_has_them(error: Exception) -> None:
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert SECRET not in f"{one} {one!r} {vars(one)}"


def test_an_exception_and_its_causes_leave_without_them() -> None:
    def fail() -> None:
        try:
            try:
                raise FileNotFoundError(2, "No such file", URL)
            except OSError as error:
                parsing = ValueError(f"can't parse {URL}", np.zeros(3))
                parsing.rows = np.ones(3)  # type: ignore[attr-defined]
                raise parsing from error
        except ValueError as error:
            error.add_note(f"of {URL}")
            raise ExceptionGroup(URL, [KeyError(URL)]) from error

    with pytest.raises(ExceptionGroup) as raised, redacted_errors():
        fail()
    cause = raised.value.__cause__
    assert cause is not None
    assert SECRET not in "".join(traceback.format_exception(cause))
    assert SECRET not in str(raised.value.exceptions)
    assert isinstance(cause.__cause__, FileNotFoundError)
    assert cause.__cause__.filename == "ftp://***@host/ck"


def test_a_ranks_failure_has_none() -> None:
    try:
        raise ValueError(URL)
    except ValueError as error:
        failure = of_exception(error, 0, "host")
    assert SECRET not in str(failure)
    assert SECRET.encode() not in (failure.exception or b"")


def test_a_store_shows_its_url_without_and_opens_it_with() -> None:
    store = Store.at("memory://alice:S3CRET@host/redaction")
    assert SECRET not in f"{store} {store!r} {store.shown} {store.child('a')}"
    store.make()
    store.write("a", b"1")
    assert store.read("a") == b"1"
    refused = URL.replace("host", "127.0.0.1:1")  # a traceback shows the lines that it passes
    with pytest.raises(StoreError) as raised:
        Store.at(refused).make()
    assert SECRET not in "".join(traceback.format_exception(raised.value, chain=True))
    assert "ftp://***@127.0.0.1:1/ck" in str(raised.value)


def test_a_url_that_was_saved_without_is_refused() -> None:
    assert is_redacted(redact(URL))
    assert not is_redacted("s3://bucket/***")
    with pytest.raises(StoreError, match="lacks its credentials"):
        Store.at(redact(URL))
    with pytest.raises(StoreError, match="lacks its credentials"):
        Store.at(redact("s3://bucket/x?secret_key=S3CRET"))


def test_what_one_of_our_errors_follows_from_has_none_either() -> None:
    cause = ConnectionError(OSError(f"no answer from {URL}"))

    def fail() -> None:
        try:
            raise cause
        except ConnectionError as error:
            raise OptionError("It can't be used.") from error

    with pytest.raises(OptionError) as raised:
        fail()
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert "ftp://***@host/ck" in str(raised.value.__cause__)


def test_a_warning_is_at_the_users_line(tmp_path: Path) -> None:
    """Not at a line of this package, of Spark ML's `fit`, or of the decorator that redacts errors."""
    file = tmp_path / "example.py"
    file.write_text("from spark_dl.redaction import *\n@redacted_errors()\ndef fit():\n    warn('slow')\n")
    spec = importlib.util.spec_from_file_location("spark_dl.example", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.warns(RuntimeWarning, match="slow") as found:
        module.fit()
    assert [warning.filename for warning in found] == [__file__]
