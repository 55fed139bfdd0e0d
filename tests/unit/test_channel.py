"""How ranks speak to the driver, over real sockets: the token, the order, and drivers that are gone."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from typing import Any

import pytest

from spark_dl.errors import ClusterError
from spark_dl.launch.channel import Address, Channel, Sender

HOST = "127.0.0.1"


def heard(messages: queue.Queue[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [messages.get(timeout=30) for _ in range(count)]


def test_messages_arrive_whole_and_in_order() -> None:
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        sender = Sender(channel.address)
        sent = [{"event": "report", "n": n, "text": "a\nb ü" * n} for n in range(100)]
        for message in sent:
            sender.send(message)
        assert heard(messages, 100) == sent
        sender.close()


def test_the_driver_tells_all_ranks_and_a_stranger_nothing() -> None:
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        stranger = socket.create_connection((HOST, channel.address.port), 30)
        senders = [Sender(channel.address) for _ in range(3)]
        gone = Sender(channel.address)
        for sender in (*senders, gone):
            sender.send({"event": "ready"})
        heard(messages, 4)
        gone.close()
        told = {"ranks": [{"place": ["ü" * 100_000, 1]}]}
        channel.tell(told)
        channel.tell({"n": 2})
        for sender in senders:
            assert sender.receive() == told
            assert sender.receive() == {"n": 2}
            sender.close()
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(1) == b""
        stranger.close()


@pytest.mark.parametrize("words", [b"", b'{"torn'])
def test_a_driver_that_goes_while_a_rank_waits_is_a_clear_error(words: bytes) -> None:
    with socket.create_server((HOST, 0)) as server:
        sender = Sender(Address(HOST, server.getsockname()[1], "token"))
        accepted, _ = server.accept()
    with accepted:
        accepted.sendall(words)
    with pytest.raises(ClusterError, match="no longer speaks"):
        sender.receive()
    sender.close()


def test_a_rank_that_waits_is_let_go_when_the_driver_ends() -> None:
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        sender = Sender(channel.address)
        sender.send({"event": "ready"})
        heard(messages, 1)
        told: queue.Queue[Exception] = queue.Queue()

        def wait() -> None:
            try:
                sender.receive()
            except ClusterError as error:
                told.put(error)

        threading.Thread(target=wait, daemon=True).start()
    assert "no longer speaks" in str(told.get(timeout=10))
    sender.close()


def test_each_ranks_messages_keep_their_order() -> None:
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:

        def speak(rank: int) -> None:
            sender = Sender(channel.address)
            for n in range(50):
                sender.send({"rank": rank, "n": n})
            sender.close()

        threads = [threading.Thread(target=speak, args=(rank,)) for rank in range(4)]
        for thread in threads:
            thread.start()
        got = heard(messages, 200)
        for thread in threads:
            thread.join()
    for rank in range(4):
        assert [message["n"] for message in got if message["rank"] == rank] == list(range(50))


def test_all_ranks_are_heard_while_all_are_connected() -> None:
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        senders = [Sender(channel.address) for _ in range(3)]
        for rank in (2, 0, 1, 2):
            senders[rank].send({"rank": rank})
            assert heard(messages, 1) == [{"rank": rank}]
        for sender in senders:
            sender.close()


def test_threads_of_a_rank_do_not_tear_each_others_lines() -> None:
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        sender = Sender(channel.address)

        def speak(letter: str) -> None:
            for _ in range(4):
                sender.send({"text": letter * 500_000})

        threads = [threading.Thread(target=speak, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        got = heard(messages, 16)
        for thread in threads:
            thread.join()
        sender.close()
    assert sorted(message["text"] for message in got) == sorted(letter * 500_000 for letter in "abcd" * 4)


@pytest.mark.parametrize("token", ["", "wrong", "{short}", "{long}"])
def test_a_wrong_token_gets_nothing_through(token: str) -> None:
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        right = channel.address.token
        token = token.format(short=right[:-1], long=right + "0")
        intruder = Sender(Address(HOST, channel.address.port, token))
        intruder.send({"event": "ended"})
        # The channel closes the connection without a word, and has then put nothing in the queue.
        assert_closed(intruder)
        sender = Sender(channel.address)
        sender.send({"event": "started"})
        assert heard(messages, 1) == [{"event": "started"}]
        assert messages.empty()
        sender.close()


def test_a_driver_that_stands_still_holds_no_rank_up() -> None:
    with socket.create_server((HOST, 0)) as server:
        sender = Sender(Address(HOST, server.getsockname()[1], "token"), timeout=1)
        accepted, _ = server.accept()
        with accepted:
            for _ in range(4):  # more than the sockets' buffers hold
                sender.send({"text": "x" * (1 << 22)})
            sender.close()


def assert_closed(sender: Sender) -> None:
    sender._socket.settimeout(30)
    with contextlib.suppress(ConnectionResetError):
        assert sender._socket.recv(1) == b""
    sender.close()


def test_addresses_have_tokens_of_their_own() -> None:
    with Channel(HOST, HOST, queue.Queue()) as one, Channel(HOST, HOST, queue.Queue()) as other:
        assert one.address.token != other.address.token
        assert len(one.address.token) == 32


def test_the_address_told_may_differ_from_the_one_listened_on() -> None:
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    with Channel("localhost", "127.0.0.2", messages) as channel:
        assert channel.address.host == "localhost"
        with pytest.raises(ClusterError):
            Sender(Address(HOST, channel.address.port, channel.address.token))
        Sender(Address("127.0.0.2", channel.address.port, channel.address.token)).close()


def test_a_driver_that_can_not_be_reached_is_a_clear_error() -> None:
    with Channel(HOST, HOST, queue.Queue()) as channel:
        address = channel.address
    with pytest.raises(ClusterError, match=rf"can't reach the driver at {HOST}:{address.port}.*spark.driver.host"):
        Sender(address)


def test_sending_to_a_driver_that_is_gone_raises_nothing() -> None:
    with socket.create_server((HOST, 0)) as server:
        sender = Sender(Address(HOST, server.getsockname()[1], "token"))
        accepted, _ = server.accept()
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    accepted.close()  # with a reset
    for _ in range(3):
        sender.send({"event": "report"})
    sender.close()


def test_a_rank_that_dies_in_the_middle_of_a_line_disturbs_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        dying, living = Sender(channel.address), Sender(channel.address)
        dying.send({"rank": 0})
        assert heard(messages, 1) == [{"rank": 0}]
        dying._socket.sendall(b'{"rank": 0, "torn')
        dying._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        dying.close()
        living.send({"rank": 1})
        assert heard(messages, 1) == [{"rank": 1}]
        living.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert capfd.readouterr().err == ""


def test_after_the_with_nothing_listens() -> None:
    with pytest.raises(KeyError), Channel(HOST, HOST, queue.Queue()) as channel:
        raise KeyError
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, channel.address.port), 30)


def test_an_address_that_is_not_this_hosts_is_one_clear_error() -> None:
    with pytest.raises(ClusterError, match=r"can't listen at 198\.51\.100\.77.*spark\.driver\.host.*Spark Connect"):
        Channel("198.51.100.77", "198.51.100.77", queue.Queue())
