"""The store in which ranks find each other, over real HTTP: who may use it, what it keeps, when it ends."""

from __future__ import annotations

import http.client
import socket
import struct
from collections.abc import Iterator

import pytest

from spark_dl.launch import rendezvous
from spark_dl.launch.rendezvous import Rendezvous

HOST = "127.0.0.1"


@pytest.fixture
def store() -> Iterator[Rendezvous]:
    with Rendezvous(HOST) as opened:
        yield opened


def ask(store: Rendezvous, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, store.address.port, timeout=30)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def key(store: Rendezvous, name: str) -> str:
    """The path as Horovod's client makes it."""
    return f"/{store.address.token}:0/{name}"


def test_what_is_put_is_got_until_it_is_deleted(store: Rendezvous) -> None:
    path = key(store, "global/0")
    assert ask(store, "GET", path) == (404, b"")
    assert ask(store, "PUT", path, b"one\x00") == (200, b"")
    assert ask(store, "GET", path) == (200, b"one\x00")
    assert ask(store, "PUT", path, b"two")[0] == 200
    assert ask(store, "GET", path) == (200, b"two")
    assert ask(store, "GET", key(store, "global/1"))[0] == 404
    assert ask(store, "DELETE", path)[0] == 200
    assert ask(store, "GET", path)[0] == 404
    assert ask(store, "DELETE", path)[0] == 200


def test_an_empty_value_is_a_value(store: Rendezvous) -> None:
    ask(store, "PUT", key(store, "a"), b"")
    assert ask(store, "GET", key(store, "a")) == (200, b"")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "path", ["/", "/global/0", "/{other}:0/global/0", "/{token}/global/0", "/{token}:1/x", "{token}:0/x", "/{short}"]
)
def test_without_the_token_nothing_is_told_or_changed(store: Rendezvous, method: str, path: str) -> None:
    ask(store, "PUT", key(store, "global/0"), b"kept")
    path = path.format(token=store.address.token, other="0" * len(store.address.token), short=store.address.token[:-1])
    assert ask(store, method, path, b"foreign" if method == "PUT" else None) == (403, b"")
    assert ask(store, "GET", key(store, "global/0")) == (200, b"kept")


def test_tokens_are_long_and_never_the_same() -> None:
    stores = [Rendezvous(HOST) for _ in range(3)]
    for opened in stores:
        opened.stop()
    assert len({opened.address.token for opened in stores}) == 3
    assert all(len(opened.address.token) == 32 for opened in stores)


def test_large_values_are_refused(store: Rendezvous) -> None:
    most = b"x" * rendezvous._LARGEST_VALUE
    assert ask(store, "PUT", key(store, "a"), most)[0] == 200
    assert status_of(store, f"Content-Length: {len(most) + 1}\r\n") == 413
    assert ask(store, "GET", key(store, "a")) == (200, most)


@pytest.mark.parametrize("headers", ["", "Content-Length: -1\r\n", "Content-Length: many\r\n"])
def test_a_value_without_a_length_is_refused(store: Rendezvous, headers: str) -> None:
    assert status_of(store, headers) == 413
    assert ask(store, "GET", key(store, "a"))[0] == 404


def status_of(store: Rendezvous, headers: str) -> int:
    """The answer to a PUT whose body is never sent."""
    with socket.create_connection((HOST, store.address.port), 30) as connection:
        connection.sendall(f"PUT {key(store, 'a')} HTTP/1.0\r\n{headers}\r\n".encode())
        return int(connection.recv(1000).split()[1])


def test_too_many_keys_are_refused(store: Rendezvous, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_MOST_KEYS", 2)
    assert [ask(store, "PUT", key(store, name), b"1")[0] for name in "abc"] == [200, 200, 413]


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS"])
def test_other_methods_are_not_known(store: Rendezvous, method: str) -> None:
    assert ask(store, method, key(store, "a"))[0] == 501


def test_it_listens_on_its_own_address_only(store: Rendezvous) -> None:
    socket.create_connection((HOST, store.address.port), 30).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", store.address.port), 30)


def test_after_stop_nothing_answers() -> None:
    with Rendezvous(HOST) as store:
        ask(store, "PUT", key(store, "a"), b"1")
        store.stop()
        with pytest.raises(ConnectionRefusedError):
            ask(store, "GET", key(store, "a"))
        store.stop()  # a second time does no harm, as the `with` then does


def test_the_port_is_closed_when_the_with_fails() -> None:
    with pytest.raises(KeyError), Rendezvous(HOST) as store:
        raise KeyError
    with pytest.raises(ConnectionRefusedError):
        ask(store, "GET", "/")


def test_a_client_that_disconnects_leaves_nothing_in_the_log(
    store: Rendezvous, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(20):
        with socket.create_connection((HOST, store.address.port), 30) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset
            client.sendall(f"PUT {key(store, 'a')} HTTP/1.0\r\nContent-Length: 1000\r\n\r\nsome".encode())
    ask(store, "GET", key(store, "b"))
    assert capfd.readouterr() == ("", "")


def test_requests_leave_no_token_in_the_log(store: Rendezvous, capfd: pytest.CaptureFixture[str]) -> None:
    ask(store, "PUT", key(store, "a"), b"1")
    ask(store, "GET", key(store, "b"))
    ask(store, "GET", "/wrong")
    assert capfd.readouterr() == ("", "")
