"""Input of a rank: its shards of the plan's rows, as datasets for Keras."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from spark_dl.data.batches import POOL_BYTES, tensorflow_batches
from spark_dl.data.cache import Cache
from spark_dl.data.ragged import OVERHEAD
from spark_dl.data.readers import Reader, reader
from spark_dl.data.shards import Shard, canonical_count, canonical_shards, shards
from spark_dl.train.plan import TrainPlan
from spark_dl.world import World

__all__ = ["Feed"]


@dataclass(frozen=True)
class Feed:
    """Training and validation data of one rank.

    Attributes:
        batch_size: The number of rows in a full batch of this rank.
        steps: The number of training batches in an epoch, the same on every rank.
        empty_steps: The number of batches in an epoch, training and validation, that have no rows on this rank.
        validation: The dataset of one pass over the validation rows; None if there are none.
    """

    batch_size: int
    steps: int
    empty_steps: int
    validation: Any
    _plan: TrainPlan
    _shards: list[Shard]
    _read: Reader
    _caches: list[Cache]

    @staticmethod
    def of(plan: TrainPlan, world: World) -> Feed:
        """Create the feed of one rank."""
        plan, world = _of_silo(plan, world)
        training, held_out = _shards(plan, world)
        read = reader(plan.reader, plan.dataset.store.url)
        where = plan.options.cache_data
        caches = [_cache(plan, world, chosen) for chosen in (training, held_out) if chosen and where != "none"]
        if where != "auto":
            for cache in caches:
                cache.turn_on()
        reads = [cache.reading(read) for cache in caches] or [read, read]
        validation = None
        if held_out:
            validation = tensorflow_batches(plan.dataset, held_out, reads[1], seed=None, one_pass=True)
        return Feed(
            batch_size=_batch_size(plan, world),
            steps=training[0].steps * plan.passes,
            empty_steps=min(shard.empty_steps for shard in training) + sum(shard.empty_steps for shard in held_out),
            validation=validation,
            _plan=plan,
            _shards=training,
            _read=reads[0],
            _caches=caches,
        )

    def keep_rows(self) -> bool:
        """Start caching rows on this rank's local disk if there is ample space.

        Only with cacheData="auto", and if the rows take at most half of the free disk space, those of the host's other
        ranks included; training and validation rows get equal parts of it.

        Returns:
            Whether this call has turned the cache on.
        """
        asked = self._plan.options.cache_data == "auto" and not self._caches[0].on
        if not asked or not all(cache.has_room(0.5 / len(self._caches)) for cache in self._caches):
            return False
        for cache in self._caches:
            cache.turn_on()
        return True

    def training(self, first_epoch: int = 0, epochs: int | None = None, skip_steps: int = 0) -> Any:
        """Return a dataset of training batches, each with its creation time, starting at an epoch and step.

        Args:
            first_epoch: The epoch to start with, from 0.
            epochs: The number after the last epoch; None repeats forever.
            skip_steps: The number of that epoch's steps to skip.
        """
        plan, pool_bytes = self._plan, POOL_BYTES
        together = plan.options.global_batch_size
        if together is not None:  # the pools of all ranks have a fixed total size
            pool_bytes //= canonical_count(len(plan.dataset.part(validation=False)), together)
        return tensorflow_batches(
            plan.dataset,
            self._shards,
            self._read,
            seed=_seed(plan),
            pool_bytes=pool_bytes,
            first_epoch=first_epoch * plan.passes,
            epochs=None if epochs is None else epochs * plan.passes,
            skip_steps=skip_steps,
            class_weights=plan.class_weights,
            stamped=True,
        )

    @property
    def example(self) -> Any:
        """Specs of a training batch, as the model gets it."""
        *batch, _ = self.training().element_spec
        return tuple(batch)


def _of_silo(plan: TrainPlan, world: World) -> tuple[TrainPlan, World]:
    """In federated training, return the plan with the rank's own silo alone, read by a world of one rank."""
    if plan.federated is None:
        return plan, world
    return replace(plan, dataset=plan.dataset.of_silo(world.rank)), replace(world, rank=0, size=1)


def _shards(plan: TrainPlan, world: World) -> tuple[list[Shard], list[Shard]]:
    """Return the rank's shards for training and for validation; the latter are empty without validation rows."""
    training, validation = (plan.dataset.part(validation=held_out) for held_out in (False, True))
    if plan.options.global_batch_size is not None:
        chosen = canonical_shards(training, world.size, plan.options.global_batch_size, _seed(plan))[world.rank]
    else:
        chosen = [shards(training, world.size, plan.options.batch_size, _seed(plan))[world.rank]]
    # Metrics don't depend on which rank reads a row.
    batch_size = _batch_size(plan, world)
    return chosen, [shards(validation, world.size, batch_size, None)[world.rank]] if validation else []


def _batch_size(plan: TrainPlan, world: World) -> int:
    together = plan.options.global_batch_size
    return plan.options.batch_size if together is None else -(-together // world.size)


def _seed(plan: TrainPlan) -> int | None:
    return plan.options.seed if plan.options.shuffle else None


def _cache(plan: TrainPlan, world: World, chosen: list[Shard]) -> Cache:
    """Create a cache for the rows of these shards."""
    where = "disk" if plan.options.cache_data == "auto" else plan.options.cache_data
    coded = sum(bool(tensor.coding) for tensor in plan.dataset.tensors)
    row_bytes = plan.dataset.bytes / max(1, sum(block.rows for block in plan.dataset.blocks)) + coded * OVERHEAD
    return Cache(where, int(row_bytes * sum(shard.rows for shard in chosen)), world.local_size)
