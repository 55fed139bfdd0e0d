"""How ranks speak to the driver, over real sockets: the token, the order, and drivers that are gone."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from typing import Any

import pytest

from spark_dl.errors import ClusterError
from spark_dl.launch.channel import Channel, MessageQueue, Sender
from spark_dl.launch.messages import Address, Arrived, JobEnded, Peers, Report, Started, TaskMessage

HOST = "127.0.0.1"


def heard(messages: MessageQueue, count: int) -> list[TaskMessage | JobEnded]:
    return [messages.get(timeout=30) for _ in range(count)]


def test_messages_arrive_whole_and_in_order() -> None:
    messages: MessageQueue = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        sender = Sender(channel.address)
        sent = [Report({"n": n, "text": "a\nb ü" * n, "loss": [0.5, None]}) for n in range(100)]
        for message in sent:
            sender.send(message)
        assert heard(messages, 100) == sent
        sender.close()


def test_once_all_tasks_have_closed_all_messages_are_queued() -> None:
    messages: MessageQueue = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        first, second = Sender(channel.address), Sender(channel.address)
        first.send(Started(0))
        first.close()
        assert not channel.wait_for_end(2, 0.2)  # one of them is still connected, or hasn't been heard of
        for _ in range(100):
            second.send(Started(1))
        second.close()
        assert channel.wait_for_end(2, 30)
        assert messages.qsize() == 101
        assert not channel.wait_for_end(3, 0)


def test_the_driver_tells_all_ranks_and_a_stranger_nothing() -> None:
    messages: MessageQueue = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        stranger = socket.create_connection((HOST, channel.address.port), 30)
        senders = [Sender(channel.address) for _ in range(3)]
        gone = Sender(channel.address)
        for sender in (*senders, gone):
            sender.send(Started(0))
        heard(messages, 4)
        gone.close()
        first = Peers(Address("ü" * 100_000, 1, "token"), (("GPU-1", "GPU-2"), ()))
        second = Peers(Address(HOST, 2, "token"), ())
        channel.broadcast(first)
        channel.broadcast(second)
        for sender in senders:
            assert sender.receive(Peers) == first
            assert sender.receive(Peers) == second
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
    with pytest.raises(ClusterError, match="closed the connection"):
        sender.receive(Peers)
    sender.close()


def test_a_rank_that_waits_is_let_go_when_the_driver_ends() -> None:
    messages: MessageQueue = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        sender = Sender(channel.address)
        sender.send(Started(0))
        heard(messages, 1)
        raised: queue.Queue[Exception] = queue.Queue()

        def wait() -> None:
            try:
                sender.receive(Peers)
            except ClusterError as error:
                raised.put(error)

        threading.Thread(target=wait, daemon=True).start()
    assert "closed the connection" in str(raised.get(timeout=10))
    sender.close()


def test_each_ranks_messages_keep_their_order() -> None:
    messages: MessageQueue = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:

        def speak(rank: int) -> None:
            sender = Sender(channel.address)
            for n in range(50):
                sender.send(Arrived(rank, str(n)))
            sender.close()

        threads = [threading.Thread(target=speak, args=(rank,)) for rank in range(4)]
        for thread in threads:
            thread.start()
        got: Any = heard(messages, 200)
        for thread in threads:
            thread.join()
    for rank in range(4):
        assert [message for message in got if message.rank == rank] == [Arrived(rank, str(n)) for n in range(50)]


def test_all_ranks_are_heard_while_all_are_connected() -> None:
    messages: MessageQueue = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        senders = [Sender(channel.address) for _ in range(3)]
        for rank in (2, 0, 1, 2):
            senders[rank].send(Started(rank))
            assert heard(messages, 1) == [Started(rank)]
        for sender in senders:
            sender.close()


def test_threads_of_a_rank_do_not_tear_each_others_lines() -> None:
    messages: MessageQueue = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        sender = Sender(channel.address)

        def speak(letter: str) -> None:
            for _ in range(4):
                sender.send(Report({"text": letter * 500_000}))

        threads = [threading.Thread(target=speak, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        got: Any = heard(messages, 16)
        for thread in threads:
            thread.join()
        sender.close()
    assert sorted(message.content["text"] for message in got) == sorted(letter * 500_000 for letter in "abcd" * 4)


@pytest.mark.parametrize("token", ["", "wrong", "{short}", "{long}"])
def test_a_wrong_token_gets_nothing_through(token: str) -> None:
    messages: MessageQueue = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        right = channel.address.token
        token = token.format(short=right[:-1], long=right + "0")
        intruder = Sender(Address(HOST, channel.address.port, token))
        intruder.send(Started(0))
        # The channel closes the connection without a word, and has then put nothing in the queue.
        assert_closed(intruder)
        sender = Sender(channel.address)
        sender.send(Started(1))
        assert heard(messages, 1) == [Started(1)]
        assert messages.empty()
        sender.close()


def test_a_driver_that_stands_still_holds_no_rank_up() -> None:
    with socket.create_server((HOST, 0)) as server:
        sender = Sender(Address(HOST, server.getsockname()[1], "token"), timeout=1)
        accepted, _ = server.accept()
        with accepted:
            for _ in range(4):  # more than the sockets' buffers hold
                sender.send(Report({"text": "x" * (1 << 22)}))
            sender.close()


@pytest.mark.parametrize(
    "line",
    [
        b"no JSON",
        b'["Started"]',
        b'{"rank": 0}',
        b'{"type": "JobEnded"}',
        b'{"type": "Peers", "rendezvous": {"host": "a", "port": 1, "token": "t"}, "gpus": []}',
        b'{"type": "Started"}',
        b'{"type": "Started", "rank": 0, "more": 1}',
        b'{"type": "Started", "rank": "0"}',
        b'{"type": "Report", "content": "' + b"x" * (1 << 20) + b'"}',
    ],
    ids=lambda line: line[:40],
)
def test_a_line_that_is_no_message_of_a_task_is_skipped(line: bytes) -> None:
    messages: MessageQueue = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        sender = Sender(channel.address)
        sender._socket.sendall(line + b"\n")
        sender.send(Started(1))
        assert heard(messages, 1) == [Started(1)]
        assert messages.empty()
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
    messages: MessageQueue = queue.Queue()
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
        sender.send(Started(0))
    sender.close()


def test_a_rank_that_dies_in_the_middle_of_a_line_disturbs_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    messages: MessageQueue = queue.Queue()
    with Channel(HOST, HOST, messages) as channel:
        dying, living = Sender(channel.address), Sender(channel.address)
        dying.send(Started(0))
        assert heard(messages, 1) == [Started(0)]
        dying._socket.sendall(b'{"type": "Started", "rank": 0, "torn')
        dying._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        dying.close()
        living.send(Started(1))
        assert heard(messages, 1) == [Started(1)]
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
