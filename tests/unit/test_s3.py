"""Object storage: blocks, checkpoints and workspaces on S3, served by moto."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Iterator

import models
import numpy as np
import pyarrow as pa
import pytest
from guarded_s3 import guarded_bucket
from moto.server import ThreadedMotoServer
from rows import pack

from spark_dl import KerasClassifier
from spark_dl.data.column import Column
from spark_dl.data.readers import reader
from spark_dl.data.shards import Segment
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.errors import StoreError
from spark_dl.io.store import Store
from spark_dl.io.workspace import Workspace, clean
from spark_dl.streaming import StreamTrainer
from spark_dl.streaming.state import StreamState, commit, read_file, read_state
from spark_dl.train.checkpoint import Checkpoint, Checkpoints, latest

SECRET = "S3" + "CRET"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket; its endpoint and credentials are in the environment, as on a cluster's hosts."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    name = f"bucket-{uuid.uuid4()}"  # every moto server of a process serves the same buckets
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_ACCESS_KEY_ID", "user")
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/{name}", method="PUT")).close()
        yield f"s3://{name}"
    server.stop()


def test_rows_are_written_to_s3_and_read_from_there(bucket: str) -> None:
    store = Store.at(f"{bucket}/rows")
    store.make()
    feature = FeatureSpec((Column("x", "number", "int32", 1),), (1,), "int32")
    label = LabelSpec(Column("x", "number", "int32", 1), (), "int32", None)
    rows = pa.RecordBatch.from_pydict({"x": pa.array(range(9), pa.int32())})
    dataset, _ = pack(ConversionSpec(store, (feature,), (label,)), rows)
    (block,) = dataset.blocks
    assert store.names() == [block.name]
    ((features, labels),) = reader("auto", store.url)(dataset, [Segment(block, 2, 5)])
    assert (features.tolist(), labels.tolist()) == ([[2], [3], [4]], [2, 3, 4])
    assert features.dtype == np.dtype("int32")


def test_checkpoints_are_replaced_and_found_on_s3(bucket: str) -> None:
    store = Store.at(bucket.replace("s3:", "s3a:")).child("checkpoints")
    checkpoints = Checkpoints(store, keep=1)
    for epoch in (1, 2, 3):
        checkpoints.save(Checkpoint(epoch=epoch, step=0, workers=1, attempt=1, history={}), f"model {epoch}".encode())
    found = latest(store)
    assert found is not None
    assert (found[0].epoch, found[1]) == (3, b"model 3")
    assert not [name for name in store.names() if name.startswith(".")]


def test_a_fits_directory_on_s3_is_removed_at_its_end(bucket: str) -> None:
    with Workspace(f"{bucket}/cache", "spark://host:7077") as store:
        assert store.names() == ["owner.json"]
        assert clean(f"{bucket}/cache") == []  # this process is alive
    assert Store.at(f"{bucket}/cache").names() == []


def test_the_state_of_a_stream_is_opened_with_the_storage_options_of_its_estimator() -> None:
    with guarded_bucket(SECRET) as (url, options):
        estimator = KerasClassifier(model=models.classifier(), tracking=None, storageOptions=options)
        store = StreamTrainer(estimator, f"{url}/state")._store
        store.make()
        commit(store, StreamState(batch=3), {"model": b"weights"})
        found = read_state(store)
        assert (found.batch, read_file(store, found, "model")) == (3, b"weights")
        commit(store, StreamState(batch=4, files=found.files), {"model": b"others"})
        assert len(store.names()) == 2


def test_an_error_of_s3_has_no_credentials(bucket: str) -> None:
    with pytest.raises(
        StoreError, match=r"Can't read nothing in s3://bucket-[-0-9a-f]+/rows.*credentials of each host"
    ) as missing:
        Store.at(f"{bucket}/rows").read("nothing")
    assert SECRET not in str(missing.value)
