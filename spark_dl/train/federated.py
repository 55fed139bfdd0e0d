"""Federated rounds: each rank takes local steps on its silo, then the models are averaged, weighted by rows.

Sources: McMahan et al.: Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017
(FedAvg); Li et al.: Federated Optimization in Heterogeneous Networks, MLSys 2020 (FedProx).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spark_dl.collectives import Collectives, gather_records
from spark_dl.train.metrics.step_logs import results_of
from spark_dl.train.model.optimizers import optimizer_variables
from spark_dl.train.plan import TrainPlan

__all__ = ["AverageRanks", "ReportSilos", "federated_callbacks"]


def federated_callbacks(
    plan: TrainPlan, model: keras.Model, collectives: Collectives
) -> tuple[list[keras.callbacks.Callback], list[keras.callbacks.Callback]]:
    """Return the callbacks that run before and after those that join metrics; add the proximal term to the optimizer.

    Args:
        plan: The training plan.
        model: The compiled model, whose optimizer is built.
        collectives: The collectives of this rank's World.

    Returns:
        The two lists, which are empty for plans that aren't federated.
    """
    if plan.federated is None:
        return [], []
    rows = plan.dataset.of_silo(collectives.world.rank).rows(validation=False)
    share = rows / plan.dataset.rows(validation=False)
    pull = ProximalTerm(model, plan.federated.proximal) if plan.federated.proximal else None
    average = AverageRanks(collectives, share, pull, [index for index, _ in plan.state_rules])
    return [average], [ReportSilos(collectives, average, plan.federated.silos)]


class AverageRanks(keras.callbacks.Callback):
    """Callback that replaces all ranks' models by their mean at the end of each round, before validation.

    Weights, moving statistics and the state of optimizers, such as momentum, are averaged, weighted by rows. Integer
    states of optimizers, such as the number of iterations, become the largest one.

    It runs before the callback that joins metrics, and records the metrics of this rank's silo.

    Args:
        collectives: The collectives of this rank's World.
        share: The share of this rank's rows in those of all ranks.
        pull: The proximal term, which starts again in each round; None for none.
        ruled: The indices of those `non_trainable_variables` that have a join rule of their own.

    Attributes:
        metrics: The metrics of this rank's silo in the current round.
    """

    def __init__(
        self, collectives: Collectives, share: float, pull: ProximalTerm | None = None, ruled: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.metrics: dict[str, Any] = {}
        self._collectives = collectives
        self._share = share
        self._pull = pull
        self._ruled = ruled
        self._others: set[int] = set()
        self._ended = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Record which variables have a join rule of their own."""
        self._others = {id(self.model.non_trainable_variables[index]) for index in self._ruled}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin a round with weights that all ranks have in common."""
        self.metrics, self._ended = {}, False
        if self._pull is not None:
            self._pull.start()

    def on_test_begin(self, logs: Any = None) -> None:
        """Average the ranks, and record the training metrics before Keras resets them for validation."""
        self._end_round()

    def on_test_end(self, logs: Any = None) -> None:
        """Record the validation metrics before they are joined."""
        self.metrics |= {f"val_{name}": value for name, value in results_of(self.model).items()}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Average the ranks, unless validation came before."""
        self._end_round()

    def _end_round(self) -> None:
        if self._ended:
            return
        self._ended = True
        self.metrics |= results_of(self.model)
        model, of_optimizers = self.model, optimizer_variables(self.model)
        held = [*model.trainable_variables, *model.non_trainable_variables, *of_optimizers]
        floats = [v for v in held if "float" in str(v.dtype) and id(v) not in self._others]
        flat = np.concatenate([np.asarray(variable, np.float64).ravel() for variable in floats]) * self._share
        _assign(floats, self._collectives.sum(flat, "spark_dl.federated"))
        counts = [variable for variable in of_optimizers if "int" in str(variable.dtype)]
        if counts:
            own = np.concatenate([np.asarray(variable).astype(np.float64).ravel() for variable in counts])
            _assign(counts, gather_records(self._collectives, own, "spark_dl.federated.counts").max(axis=0))


class ReportSilos(keras.callbacks.Callback):
    """Callback that adds each silo's metrics to the logs of each round, as `loss[silo=a]`.

    Args:
        collectives: The collectives of this rank's World.
        average: The callback that has recorded this rank's metrics.
        silos: The name of each rank's silo.
    """

    def __init__(self, collectives: Collectives, average: AverageRanks, silos: Sequence[str]) -> None:
        super().__init__()
        self._collectives = collectives
        self._average = average
        self._silos = silos

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Gather the metrics that are single numbers, and add them."""
        own: Mapping[str, Any] = self._average.metrics
        names = sorted(name for name, value in own.items() if np.ndim(value) == 0)
        values = np.array([float(own[name]) for name in names])
        table = gather_records(self._collectives, values, "spark_dl.federated.metrics")
        if logs is not None:
            for column, name in enumerate(names):
                for rank, silo in enumerate(self._silos):
                    logs[f"{name}[silo={silo}]"] = float(table[rank, column])


class ProximalTerm:
    """Proximal term of FedProx: the gradient of `factor / 2 * |weights - weights at the round's start| ** 2`.

    It is added to the gradients before the optimizer clips and applies them; the reported loss doesn't have it.

    Args:
        model: The model, whose optimizer is wrapped.
        factor: The factor.
    """

    def __init__(self, model: keras.Model, factor: float) -> None:
        self._factor = factor
        self._variables = list(model.weights)
        self._starts = {id(v): tf.Variable(v.value, trainable=False) for v in self._variables}
        model.optimizer.apply = self._pulling(model.optimizer.apply, model)

    def start(self) -> None:
        """Pull towards the current weights from now on."""
        for variable in self._variables:
            self._starts[id(variable)].assign(variable.value)

    def _pulling(self, apply: Callable[..., Any], model: keras.Model) -> Callable[..., Any]:
        def pulled_apply(grads: Any, trainable_variables: Any = None) -> Any:
            variables = list(model.trainable_variables if trainable_variables is None else trainable_variables)
            pulled = [self._pulled(g, v) for g, v in zip(grads, variables, strict=True)]
            return apply(pulled, trainable_variables)

        return pulled_apply

    def _pulled(self, gradient: Any, variable: Any) -> Any:
        if gradient is None:
            return None
        dense = tf.convert_to_tensor(gradient)  # a sparse gradient lacks the rows that are pulled back
        return dense + tf.cast(self._factor, dense.dtype) * tf.cast(
            variable.value - self._starts[id(variable)], dense.dtype
        )


def _assign(variables: Sequence[Any], flat: np.ndarray) -> None:
    for variable in variables:
        value = np.asarray(variable)
        part, flat = flat[: value.size], flat[value.size :]
        variable.assign(part.reshape(value.shape).astype(value.dtype))
