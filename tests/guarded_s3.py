"""A stand-in for S3 that answers only requests which are signed with its key."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

__all__ = ["KEY", "guarded_bucket"]

KEY = "AKIA" + "GUARDED"


class _Guard:
    """WSGI application: moto's S3 behind a check of the access key's id, which moto's own check of lists refuses."""

    def __init__(self) -> None:
        self._s3 = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if f"Credential={KEY}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            start_response("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        found: Iterable[bytes] = self._s3(environ, start_response)
        return found


@contextmanager
def guarded_bucket(secret: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve an empty bucket.

    Args:
        secret: The secret key of the options.

    Yields:
        The bucket's URL, and the storageOptions with which it opens.
    """
    server = make_server("127.0.0.1", 0, _Guard(), threaded=True)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    options = {
        "access_key": KEY,
        "secret_key": secret,
        "region": "us-east-1",
        "scheme": "http",
        "endpoint_override": f"127.0.0.1:{server.port}",
    }
    try:
        from pyarrow.fs import S3FileSystem

        # Every moto server of a process serves the same buckets.
        bucket = f"guarded-{uuid.uuid4()}"
        S3FileSystem(**options, allow_bucket_creation=True).create_dir(bucket)
        yield f"s3://{bucket}", options
    finally:
        server.shutdown()
        thread.join()
