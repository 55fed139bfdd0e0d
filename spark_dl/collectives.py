"""What ranks do together: the only file that imports Horovod.

Every collective carries a name that the caller gives: names that Horovod makes up count the models built in a
process, and two ranks that built a different number of models would wait for each other for ever. A World of
one needs no Horovod: each collective is then the identity.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from spark_dl.world import World

__all__ = ["Collectives", "HorovodCollectives", "SoloCollectives", "make_collectives"]

# Gloo's ring takes some 4 messages for each rank, one after the other, however few the bytes are; a gather takes one.
# Up to so many bytes, those of all ranks together, the messages take longer than the bytes that a gather sends more.
_GATHERED_BYTES = 512 << 10


class Collectives(Protocol):
    """Sums and copies over all ranks, for NumPy arrays (now) and TensorFlow tensors (in a graph)."""

    world: World

    def sum(self, array: np.ndarray, name: str) -> np.ndarray:
        """The elementwise sum over all ranks, on every rank."""

    def broadcast(self, array: np.ndarray, name: str) -> np.ndarray:
        """Rank 0's array, on every rank."""

    def sum_tensors(self, tensors: list[Any], name: str) -> list[Any]:
        """The elementwise sums of several tensors, inside or outside a tf.function."""

    def gather_tensor(self, tensor: Any, name: str) -> Any:
        """The ranks' tensors joined along the first axis, in rank order."""


class SoloCollectives:
    """The collectives of a World of one."""

    def __init__(self, world: World) -> None:
        self.world = world

    def sum(self, array: np.ndarray, name: str) -> np.ndarray:
        """The array itself."""
        return array

    def broadcast(self, array: np.ndarray, name: str) -> np.ndarray:
        """The array itself."""
        return array

    def sum_tensors(self, tensors: list[Any], name: str) -> list[Any]:
        """The tensors themselves."""
        return tensors

    def gather_tensor(self, tensor: Any, name: str) -> Any:
        """The tensor itself."""
        return tensor


class HorovodCollectives:
    """The collectives of Horovod, which must have been initialised with `start`."""

    def __init__(self, world: World) -> None:
        import horovod.tensorflow as hvd

        self.world = world
        self._hvd = hvd

    def start(self) -> None:
        """Join the other ranks (the HOROVOD_ variables say where), and return when all are there."""
        self._hvd.init()
        self._hvd.allreduce(np.zeros(1, np.float32), op=self._hvd.Sum, name="spark_dl.start")

    def stop(self) -> None:
        """Leave the other ranks: what they still wait for fails at once."""
        self._hvd.shutdown()

    def sum(self, array: np.ndarray, name: str) -> np.ndarray:
        """The elementwise sum over all ranks, on every rank."""
        return np.asarray(self._hvd.allreduce(array, op=self._hvd.Sum, name=name))

    def broadcast(self, array: np.ndarray, name: str) -> np.ndarray:
        """Rank 0's array, on every rank."""
        return np.asarray(self._hvd.broadcast(array, root_rank=0, name=name))

    def sum_tensors(self, tensors: list[Any], name: str) -> list[Any]:
        """The elementwise sums of several tensors, inside or outside a tf.function."""
        # Not as a group: Horovod's groups are of one dtype.
        names = [name, *(f"{name}.{index}" for index in range(1, len(tensors)))]
        return [self._summed(t, n) for t, n in zip(tensors, names, strict=True)]

    def _summed(self, tensor: Any, name: str) -> Any:
        import tensorflow as tf

        elements = tensor.shape.num_elements()
        if elements is None or elements * tensor.dtype.size * self.world.size > _GATHERED_BYTES:
            return self._hvd.allreduce(tensor, op=self._hvd.Sum, name=name)
        return tf.reduce_sum(self._hvd.allgather(tensor[tf.newaxis], name=name), axis=0)

    def gather_tensor(self, tensor: Any, name: str) -> Any:
        """The ranks' tensors joined along the first axis, in rank order."""
        return self._hvd.allgather(tensor, name=name)


def make_collectives(world: World) -> Collectives:
    """The collectives that fit the World, in a process whose Horovod, if any, has been started."""
    return SoloCollectives(world) if world.size == 1 else HorovodCollectives(world)
