"""Who a rank is among all, from the hosts alone; and what a World of one does together."""

from __future__ import annotations

import dataclasses
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_dl.collectives import SoloCollectives, make_collectives
from spark_dl.world import solo, worlds

HOSTS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=12)


@given(HOSTS)
def test_ranks_count_up_and_know_their_hosts(hosts: list[str]) -> None:
    ranks = worlds(hosts)
    assert [(w.rank, w.size, w.host) for w in ranks] == [(i, len(hosts), host) for i, host in enumerate(hosts)]
    assert [w.is_leader for w in ranks] == [True] + [False] * (len(hosts) - 1)


@given(HOSTS)
def test_local_ranks_number_the_ranks_of_a_host(hosts: list[str]) -> None:
    for host, count in Counter(hosts).items():
        here = [w for w in worlds(hosts) if w.host == host]
        assert [w.local_rank for w in here] == list(range(count))
        assert {w.local_size for w in here} == {count}


@given(HOSTS)
def test_cross_ranks_number_the_hosts_that_have_the_local_rank(hosts: list[str]) -> None:
    ranks = worlds(hosts)
    for local in {w.local_rank for w in ranks}:
        across = [w for w in ranks if w.local_rank == local]
        assert sorted(w.cross_rank for w in across) == list(range(len(across)))
        assert {w.cross_size for w in across} == {len(across)}
    order = list(dict.fromkeys(hosts))
    for local in {w.local_rank for w in ranks}:
        across = sorted((w for w in ranks if w.local_rank == local), key=lambda w: w.cross_rank)
        assert [order.index(w.host) for w in across] == sorted(order.index(w.host) for w in across)


def test_a_world_of_one_is_the_first_of_a_single_host() -> None:
    assert worlds(["node"]) == [solo("node")]
    assert solo().is_leader


def test_a_world_is_a_value() -> None:
    world = worlds(["a", "b"])[1]
    assert pickle.loads(pickle.dumps(world)) == world
    with pytest.raises(dataclasses.FrozenInstanceError):
        world.rank = 0  # type: ignore[misc]


def test_collectives_of_one_give_everything_back() -> None:
    collectives = make_collectives(solo())
    assert isinstance(collectives, SoloCollectives)
    assert collectives.world == solo()
    array = np.array([[1.5, 2.0]])
    for function in (collectives.sum, collectives.broadcast, collectives.gather_tensor):
        assert function(array, "name") is array
    assert collectives.sum_tensors([array, array + 1], "name")[1].tolist() == [[2.5, 3.0]]
