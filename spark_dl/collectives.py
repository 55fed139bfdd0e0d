"""Collective operations over all ranks; the only file that imports Horovod.

The caller names every collective: Horovod's automatic names depend on how many models the process has built, so ranks
that built different numbers of models would deadlock. In a World of size 1 every collective is the identity and
Horovod isn't needed.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from spark_dl.world import World

__all__ = ["Collectives", "HorovodCollectives", "SoloCollectives", "gather_records", "make_collectives"]

# Below this size, summed over all ranks, allgather plus a local sum beats the ring allreduce: Gloo's ring sends about
# 4 sequential messages for each rank, whatever their size, and a gather sends one.
_GATHERED_BYTES = 512 << 10


class Collectives(Protocol):
    """Interface for sums, broadcasts and gathers over all ranks, of NumPy arrays (eager) and tensors (in a graph)."""

    world: World

    def sum(self, array: np.ndarray, name: str) -> np.ndarray:
        """Return the elementwise sum over all ranks, on every rank."""

    def broadcast(self, array: np.ndarray, name: str) -> np.ndarray:
        """Return rank 0's array on every rank."""

    def sum_tensors(self, tensors: list[Any], name: str) -> list[Any]:
        """Return the elementwise sum over all ranks of each tensor, inside or outside a tf.function."""

    def gather_tensor(self, tensor: Any, name: str) -> Any:
        """Concatenate the ranks' tensors along the first axis, in rank order."""


class SoloCollectives:
    """Collectives of a World of size 1: each one returns its input."""

    def __init__(self, world: World) -> None:
        self.world = world

    def sum(self, array: np.ndarray, name: str) -> np.ndarray:
        """Return the array unchanged."""
        return array

    def broadcast(self, array: np.ndarray, name: str) -> np.ndarray:
        """Return the array unchanged."""
        return array

    def sum_tensors(self, tensors: list[Any], name: str) -> list[Any]:
        """Return the tensors unchanged."""
        return tensors

    def gather_tensor(self, tensor: Any, name: str) -> Any:
        """Return the tensor unchanged."""
        return tensor


class HorovodCollectives:
    """Collectives of Horovod; `start` must have been called once in the process."""

    def __init__(self, world: World) -> None:
        import horovod.tensorflow as hvd

        self.world = world
        self._hvd = hvd

    def start(self) -> None:
        """Initialise Horovod from the HOROVOD_ environment variables and wait for all ranks."""
        self._hvd.init()
        self._hvd.allreduce(np.zeros(1, np.float32), op=self._hvd.Sum, name="spark_dl.start")

    def stop(self) -> None:
        """Shut Horovod down; collectives that other ranks still wait for fail at once."""
        self._hvd.shutdown()

    def sum(self, array: np.ndarray, name: str) -> np.ndarray:
        """Return the elementwise sum over all ranks, on every rank."""
        return np.asarray(self._hvd.allreduce(array, op=self._hvd.Sum, name=name))

    def broadcast(self, array: np.ndarray, name: str) -> np.ndarray:
        """Return rank 0's array on every rank."""
        return np.asarray(self._hvd.broadcast(array, root_rank=0, name=name))

    def sum_tensors(self, tensors: list[Any], name: str) -> list[Any]:
        """Return the elementwise sum over all ranks of each tensor, inside or outside a tf.function."""
        # No grouped allreduce, as a Horovod group holds a single dtype.
        names = [name, *(f"{name}.{index}" for index in range(1, len(tensors)))]
        return [self._summed(t, n) for t, n in zip(tensors, names, strict=True)]

    def _summed(self, tensor: Any, name: str) -> Any:
        import tensorflow as tf

        elements = tensor.shape.num_elements()
        if elements is None or elements * tensor.dtype.size * self.world.size > _GATHERED_BYTES:
            return self._hvd.allreduce(tensor, op=self._hvd.Sum, name=name)
        return tf.reduce_sum(self._hvd.allgather(tensor[tf.newaxis], name=name), axis=0)

    def gather_tensor(self, tensor: Any, name: str) -> Any:
        """Concatenate the ranks' tensors along the first axis, in rank order."""
        return self._hvd.allgather(tensor, name=name)


def gather_records(collectives: Collectives, records: np.ndarray, name: str) -> np.ndarray:
    """Gather each rank's records on every rank.

    Args:
        collectives: The collectives.
        records: This rank's numbers: float64, or a structured array of such fields; of the same shape on all ranks.
        name: The name of the collective.

    Returns:
        The records of all ranks, with the ranks as the first axis.
    """
    world = collectives.world
    table = np.zeros((world.size, *records.shape), records.dtype)
    table[world.rank] = records
    gathered: np.ndarray = collectives.sum(table.ravel().view(np.float64), name)
    records_of_ranks: np.ndarray = gathered.view(records.dtype)
    return records_of_ranks.reshape(table.shape)


def make_collectives(world: World) -> Collectives:
    """Create the collectives for a World; with more than one rank, Horovod must already be initialised."""
    return SoloCollectives(world) if world.size == 1 else HorovodCollectives(world)
