"""What makes another training of a fit: code by its bytecode, rows by their roles, options by their declarations."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import types
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from rows import numbered

from spark_dl.fit.code_digest import code_digest
from spark_dl.fit.fingerprint import _own_objects, fingerprint, layout
from spark_dl.options import ClassifierOptions, EstimatorOptions, Option, all_options, options_of
from spark_dl.train.model.serialization import to_bytes

# --- code ------------------------------------------------------------------------------------------------------------


def notebook(text: str) -> dict[str, Any]:
    """What a notebook's cell defines: functions and classes without a source file."""
    module = types.ModuleType("__main__")
    exec(compile(text, "<cell>", "exec"), vars(module))  # noqa: S102
    return vars(module)


CELL = """
import functools
import numpy as np
RATE = 0.5
TABLE = {"a": [1, 2], "b": {3.0, "x", None}}
ARRAY = np.arange(4.0)
def helper(x): return x * RATE
def made(sign, by=2):
    def loss(y, p):
        return helper(y - sign * p) ** by + TABLE["a"][0]
    return loss
class Base:
    factor = 3
    def scaled(self, x): return x * self.factor
class Metric(Base):
    @property
    def twice(self): return 2
    @staticmethod
    def fixed(x): return x + ARRAY.sum()
    def call(self, x): return super().scaled(x) in {1, 2, 3}
class Marked(type):
    def mark(cls): return "m"
class Marks(metaclass=Marked):
    pass
@functools.lru_cache
def cached(x): return x + 11
@functools.singledispatch
def by_type(x): return 0
@by_type.register
def _(x: int): return x * 12
def weighted(y, p): return y
weighted.weight = 13
class Held:
    def __init__(self): self.number = 4; self.inner = made(1.0); self.me = self
"""
WHAT = (
    "made(1.0), made, Metric, Marks, cached, by_type, weighted, Held(), [x for x in (RATE, ARRAY)], "
    "lambda x, y=RATE: (x, y)"
)


def digest(cell: str = CELL, what: str = WHAT) -> str:
    return code_digest(eval(f"[{what}]", notebook(cell)))  # noqa: S307


def test_code_is_the_same_in_another_process_and_on_other_lines() -> None:
    program = (
        "import sys, json; from spark_dl.fit.code_digest import code_digest; cell, what = json.load(sys.stdin);"
        "exec(compile(cell, '<other>', 'exec')); print(code_digest(eval(f'[{what}]')))"
    )
    moved = CELL.replace("RATE = 0.5", "# a comment\n\n\nRATE = 0.5").replace("    @property", "\n    @property")
    seed = {**os.environ, "PYTHONHASHSEED": "7"}
    given = json.dumps([moved, WHAT])
    ended = subprocess.run([sys.executable, "-c", program], input=given, env=seed, capture_output=True, text=True)
    assert ended.stdout.strip() == digest(), ended.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.5", "RATE = 0.25"),
        ("x * RATE", "x / RATE"),
        ("by=2", "by=3"),
        ("sign * p", "sign + p"),
        ('"a": [1, 2]', '"a": [2, 2]'),
        ("np.arange(4.0)", "np.arange(4.0) + 1"),
        ("factor = 3", "factor = 4"),
        ("x * self.factor", "x + self.factor"),
        ("return 2", "return 3"),
        ("in {1, 2, 3}", "in {1, 2, 4}"),
        ("self.number = 4", "self.number = 5"),
        ("self.inner = made(1.0)", "self.inner = made(-1.0)"),
        ("class Metric(Base)", "class Metric"),
        ("@staticmethod", "@classmethod"),
        ('return "m"', 'return "n"'),
        ("x + 11", "x - 11"),
        ("x * 12", "x / 12"),
        ("weighted.weight = 13", "weighted.weight = 14"),
    ],
)
def test_other_code_is_told(old: str, new: str) -> None:
    assert old in CELL
    assert digest(CELL.replace(old, new)) != digest()


USES = {
    "a module of a package": "import own_package\ndef loss(y): return own_package.consts.ALPHA * y",
    "by another name": "import own_package.consts as c\ndef loss(y): return c.ALPHA * y",
    "within the function": "def loss(y):\n import own_package.consts\n return own_package.consts.ALPHA * y",
    "a relative import": "__package__ = 'own_package'\ndef loss(y):\n from .consts import ALPHA\n return ALPHA * y",
    "a relative module": "__package__ = 'own_package'\ndef loss(y):\n from . import consts\n return consts.ALPHA * y",
    "a closure": "def made():\n from own_package import consts\n return lambda y: consts.ALPHA * y\nloss = made()",
    "a default": "from own_package import consts\ndef loss(y, c=consts): return c.ALPHA * y",
}


@pytest.mark.parametrize("text", USES.values(), ids=USES)
def test_what_a_function_uses_of_the_users_modules_counts(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, consts = types.ModuleType("own_package"), types.ModuleType("own_package.consts")
    vars(package)["consts"] = consts
    monkeypatch.setitem(sys.modules, "own_package", package)
    monkeypatch.setitem(sys.modules, "own_package.consts", consts)
    digests = []
    for alpha in (1.0, 2.0, 1.0):
        vars(consts)["ALPHA"] = alpha
        digests.append(code_digest(notebook(text)["loss"]))
    assert digests[0] == digests[2] != digests[1]


def test_names_that_keras_counts_are_no_difference_and_texts_that_end_alike_are() -> None:
    def model(text: str) -> keras.Model:
        inputs = keras.Input((2,))
        hidden = keras.layers.Dense(2)(keras.layers.Dense(2)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1, name="out")(hidden))
        model.compile("sgd", {"out": Named(text)})
        return model

    class Named(keras.losses.Loss):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

        def get_config(self) -> dict[str, Any]:
            return {"text": self.text}

        def call(self, y: Any, p: Any) -> Any:
            return y - p

    def part(text: str) -> str:
        made = model(text)
        return fingerprint(to_bytes(made), numbered([4])[0], EstimatorOptions(), model=made)["model"]

    assert part("order_1") == part("order_1") != part("order_2")


def test_the_order_in_which_keras_joins_excluded_names_is_no_difference() -> None:
    def parts(names: list[str]) -> dict[str, str]:
        made = network()
        optimizer = keras.optimizers.AdamW()
        optimizer._exclude_from_weight_decay_pattern = re.compile("|".join(names))  # as another process would
        made.compile(optimizer, "mse")
        return fingerprint(to_bytes(made), numbered([4])[0], EstimatorOptions(), model=made)

    assert parts(["bias", "gamma"]) == parts(["gamma", "bias"]) != parts(["bias", "beta"])


def test_what_a_closure_holds_counts() -> None:
    cell = notebook(CELL)
    assert code_digest(cell["made"](1.0)) != code_digest(cell["made"](-1.0))
    assert code_digest(functools.partial(cell["helper"], 1)) != code_digest(functools.partial(cell["helper"], 2))


@pytest.mark.parametrize("thing", [open(os.devnull), (n for n in "ab"), sys, os.environ, np.random.default_rng])  # noqa: SIM115
def test_what_has_no_state_of_its_own_counts_by_its_kind(thing: Any) -> None:
    assert code_digest(thing) == code_digest(thing)


def test_an_augmenting_layer_counts_by_its_config_and_what_it_has_learned() -> None:
    def digest_of(*layers: Any) -> str:
        return code_digest([keras.Sequential([keras.Input((3,)), *layers])])

    normal = keras.layers.Normalization(mean=1.0, variance=2.0)
    first = digest_of(keras.layers.GaussianNoise(0.1), normal)
    assert digest_of(keras.layers.GaussianNoise(0.1), keras.layers.Normalization(mean=1.0, variance=2.0)) == first
    assert digest_of(keras.layers.GaussianNoise(0.2), normal) != first
    adapted = [keras.layers.Normalization() for _ in range(2)]
    for number, layer in enumerate(adapted):
        layer.adapt(np.full((4, 3), float(number)))
    assert code_digest(adapted[0]) != code_digest(adapted[1])


# --- options ---------------------------------------------------------------------------------------------------------


def network(loss: Any = "mse", units: int = 1) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
    model.compile("sgd", loss)
    return model


@functools.cache
def saved_network() -> tuple[bytes, keras.Model]:
    model = network()
    return to_bytes(model), model


def differing(
    values: dict[str, Any], model: keras.Model | None = None, before: dict[str, Any] | None = None
) -> set[str]:
    """The parts of a fit with these options, by their fields, that aren't those of one without."""
    old, new = ClassifierOptions(**before or {}), ClassifierOptions(**values)
    dataset, _ = numbered([4, 4])
    (content, first), second = saved_network(), model or saved_network()[1]
    one = fingerprint(content, dataset, old, {}, first)
    other = fingerprint(content if second is first else to_bytes(second), dataset, new, {}, second)
    return {part for part in (*one, *other) if one.get(part) != other.get(part)}


@pytest.mark.parametrize("option", options_of(ClassifierOptions), ids=lambda option: option.name)
def test_the_value_of_an_option_counts_where_it_says_so(option: Option) -> None:
    if option.on_resume == "same" and option.name != "callbacks":
        assert differing({option.field: "other"}) == {option.name}
    else:
        assert differing({option.field: "other"} if option.name not in ("callbacks", "warmStart") else {}) == set()


def test_an_option_that_an_estimator_does_not_have_counts_as_not_set() -> None:
    """As it did before options were records: an unfinished fit of that time goes on."""
    dataset, _ = numbered([4, 4])
    parts = fingerprint(saved_network()[0], dataset, EstimatorOptions())
    assert {option.name for option in all_options() if option.on_resume == "same"} <= parts.keys()
    assert parts["classWeights"] == parts["balance"] == code_digest(None)


def test_a_model_without_weights_that_training_changes_is_the_same() -> None:
    assert differing({}, network()) == set()
    assert differing({}, network(units=2)) == {"model"}


def test_rows_count_by_their_numbers_and_roles_and_not_by_their_order() -> None:
    dataset, _ = numbered([4, 4, 4])
    blocks = [replace(block, checksum=index + 1) for index, block in enumerate(dataset.blocks)]

    def with_validation(*held: int) -> Any:
        chosen = [replace(block, validation=index in held) for index, block in enumerate(blocks)]
        return replace(dataset, blocks=tuple(chosen))

    def parts(one: Any, other: Any) -> set[str]:
        content = to_bytes(network())
        first, second = (fingerprint(content, rows, EstimatorOptions()) for rows in (one, other))
        return {part for part in first if first[part] != second[part]}

    first = with_validation(0)
    assert parts(first, with_validation(1)) == {"training rows", "validation rows"}
    turned = replace(first, blocks=first.blocks[::-1])
    assert parts(first, turned) == set()
    assert layout(turned) != layout(first) == layout(with_validation(0))


def test_losses_and_metrics_of_one_name_count_by_their_code() -> None:
    def own(sign: float) -> Any:
        def loss(truth: Any, guess: Any) -> Any:
            return keras.ops.mean((truth - sign * guess) ** 2)

        return loss

    part = {"code of the model, its losses or metrics"}
    before = {"loss": own(1.0)}
    assert differing({"loss": own(-1.0)}, before=before) == part
    assert differing({"loss": own(1.0)}, before=before) == set()
    assert differing({"metrics": [own(1.0)]}) == part
    assert differing({"loss": {"a": "mse"}}) == set()


def test_fixed_weights_count() -> None:
    def frozen(value: float) -> keras.Model:
        layer = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(value), trainable=False)
        model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        # The config is to be the same.
        model.layers[0].kernel.assign(np.full((3, 1), value * 2))
        return model

    content, dataset = to_bytes(frozen(1.0)), numbered([4])[0]
    first, again = (fingerprint(content, dataset, EstimatorOptions(), {}, frozen(1.0)) for _ in range(2))
    assert first == again
    other = fingerprint(content, dataset, EstimatorOptions(), {}, frozen(2.0))
    assert {part for part in first if first[part] != other[part]} == {"state of layers that aren't trained"}


# --- callbacks -------------------------------------------------------------------------------------------------------


class Fails(keras.callbacks.Callback):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.at:
            raise ZeroDivisionError


class Decays(keras.callbacks.Callback):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 0.1 * self.by**epoch


class Passes(keras.callbacks.Callback):
    """Reaches the model in a function that it passes itself to."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        halve_rate(self)


class PassesLater(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        (lambda: halve_rate(self))()


def halve_rate(callback: Any) -> None:
    callback.model.optimizer.learning_rate /= 2


class Counts(keras.callbacks.Callback):
    """Uses what it has of its own alone."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        self.epochs = [*self.epochs, epoch] if epoch else []
        self.steps += 1
        print([self.epochs for _ in range(2)])


CALLBACKS: list[tuple[Any, Any, bool]] = [
    (Passes(), None, True),
    (PassesLater(), None, True),
    (Counts(), None, False),
    (Fails(2), None, False),
    (Fails(2), Fails(3), False),
    (keras.callbacks.CSVLogger("a.csv"), keras.callbacks.CSVLogger("b.csv"), False),
    (keras.callbacks.ModelCheckpoint("a.keras"), None, False),
    (Decays(0.5), Decays(0.5), False),
    (Decays(0.5), Decays(0.4), True),
    (Decays(0.5), None, True),
    (keras.callbacks.EarlyStopping("loss", patience=1), keras.callbacks.EarlyStopping("loss", patience=1), False),
    (keras.callbacks.EarlyStopping("loss", patience=1), keras.callbacks.EarlyStopping("loss", patience=2), True),
    (
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.2 / (1 + epoch)),
        True,
    ),
    (
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch)),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(logs)),
        False,
    ),
]


@pytest.mark.parametrize(("one", "other", "counts"), CALLBACKS)
def test_callbacks_count_where_they_may_change_what_is_trained(one: Any, other: Any, counts: bool) -> None:
    before, after = ({"callbacks": [callback] if callback else None} for callback in (one, other))
    assert differing(after, before=before) == ({"callbacks"} if counts else set())


class Weighing(keras.losses.Loss):
    def __init__(self, weight: float) -> None:
        super().__init__(name="weighing")
        self._weight = weight


def test_private_attributes_of_losses_and_arguments_of_partial_ones_count() -> None:
    assert code_digest(Weighing(1.0)) == code_digest(Weighing(1.0)) != code_digest(Weighing(-1.0))
    partial = [list(_own_objects([functools.partial(max, default=weight)])) for weight in (1.0, 1.0, -1.0)]
    assert code_digest(partial[0]) == code_digest(partial[1]) != code_digest(partial[2])
