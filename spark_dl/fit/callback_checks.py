"""Checks of Keras callbacks before any Spark job: instances that can be pickled and that work on ranks."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from spark_dl.errors import OptionError, explain
from spark_dl.launch.pickling import Pickled, pickle_for_ranks

__all__ = ["pickle_callbacks"]

_FIX = "Make such objects in on_train_begin, on the rank, or leave them out of the state with __getstate__."
# Keras callbacks that need a package which neither Keras nor TensorFlow installs, with the command that installs it.
_PACKAGES = {"TensorBoard": ("tensorboard", "pip install 'spark_dl[tensorboard]'"), "RemoteMonitor": ("requests", "")}


def pickle_callbacks(callbacks: Sequence[Any] | None, *owners: Any, variables: Sequence[Any] = ()) -> Pickled:
    """Check callbacks and pickle them for the ranks.

    Args:
        callbacks: The value of the option callbacks.
        *owners: The user's model and optimizer, which callbacks may reach by `self.model` alone.
        variables: Variables that the model's losses, metrics or layers are sent with.

    Returns:
        The pickled list of callbacks, with the modules that executors must have.

    Raises:
        OptionError: A callback is no instance of keras.callbacks.Callback, doesn't work on ranks, needs a package that
            isn't installed, or can't be pickled.
        ModelError: A callback holds a part of the user's model, optimizer or loss, copies of which are trained.
    """
    import keras

    packages: set[str] = set()
    for index, callback in enumerate(callbacks or []):
        if not isinstance(callback, keras.callbacks.Callback):
            raise OptionError(
                explain(
                    "callbacks must be keras.callbacks.Callback instances.",
                    expected="instances of keras.callbacks.Callback",
                    received=repr(callback),
                    fix="Pass an instance, not the class or its name.",
                )
            )
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise OptionError(
                explain(
                    "BackupAndRestore would restore one rank and not the others.",
                    expected="other callbacks",
                    received="BackupAndRestore",
                    fix="Leave it out: set checkpointDir to keep each epoch's checkpoint.",
                )
            )
        if isinstance(callback, keras.callbacks.ProgbarLogger):
            raise OptionError(
                explain(
                    "ProgbarLogger would draw its bar on the executors, where nobody sees it.",
                    expected="other callbacks",
                    received=f"callbacks[{index}] ({type(callback).__name__})",
                    fix="Leave it out: verbose=1 shows the progress on the driver.",
                )
            )
        packages |= _packages_of(callback, index)
    pickled = pickle_for_ranks("callbacks", list(callbacks or []), _FIX, _reducer(owners, variables))
    return Pickled(pickled.content, tuple(sorted({*pickled.modules, *packages})))


def _reducer(owners: Sequence[Any], variables: Sequence[Any]) -> Callable[[Any], Any]:
    """Return a pickle reducer that leaves out the model of an earlier `keras.Model.fit` with the same callback."""
    import keras

    from spark_dl._compat.keras import CALLBACK_ATTRIBUTES
    from spark_dl.train.model.carrying import keras_reducer

    carried = keras_reducer(*owners, seen=list(variables))

    def reduce(thing: Any) -> Any:
        if not isinstance(thing, keras.callbacks.Callback):
            return carried(thing)
        reduced = thing.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if isinstance(reduced, str) or len(reduced) < 3 or not isinstance(reduced[2], dict):
            return reduced
        state = {name: None if name in CALLBACK_ATTRIBUTES else value for name, value in reduced[2].items()}
        return *reduced[:2], state, *reduced[3:]

    return reduce


def _packages_of(callback: Any, index: int) -> set[str]:
    """Return the packages that a Keras callback needs, after checking that the driver has them."""
    import keras

    needed = set()
    for name, (package, install) in _PACKAGES.items():
        if isinstance(callback, getattr(keras.callbacks, name)):
            if importlib.util.find_spec(package) is None:
                raise OptionError(
                    explain(
                        f"{name} needs the package {package!r}, which isn't installed.",
                        expected=f"{package} on the driver and on the executors",
                        received=f"callbacks[{index}] ({type(callback).__name__}) without it",
                        fix=f"Install it everywhere: {install or f'pip install {package}'}.",
                    )
                )
            needed.add(package)
    return needed
