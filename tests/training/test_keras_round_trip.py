"""What is set on live Keras objects counts on ranks, in the fitted model and in a second fit: a sweep over Keras.

Each model is trained for three steps on one rank and by plain Keras; it ends with the same weights. Eagerly, since
tracing would take most of the time.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from plans import written_plan
from rows import packed_arrays

from spark_dl.collectives import SoloCollectives
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import ModelError, OptionError, SavedModelError
from spark_dl.train.loop import train
from spark_dl.train.model.compiling import compiled_copy
from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes
from spark_dl.world import solo

L, OP = keras.layers, keras.optimizers
WIDTH, BATCH, STEPS = 16, 4, 3
ROWS = BATCH * STEPS
RANDOM = np.random.default_rng(5)
X = RANDOM.integers(0, 5, (ROWS, WIDTH)).astype("float32")
Y = RANDOM.integers(0, 3, ROWS).astype("int32")


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> ConvertedDataset:
    return packed_arrays(tmp_path_factory.mktemp("blocks"), X, Y, rows=ROWS)


@pytest.fixture
def fitted(blocks: ConvertedDataset, tmp_path: Path) -> Callable[..., keras.Model]:
    """Trains a model on a rank as an estimator does, from the compiled copy on; gives the fitted model."""

    def fit(model: keras.Model, **options: Any) -> keras.Model:
        copy = compiled_copy(model, *(options.pop(name, None) for name in ("optimizer", "loss", "metrics")))
        content = options.pop("content", None) or to_bytes(copy)
        objects = custom_objects(copy)
        defaults = {"batch_size": BATCH, "shuffle": False, "monitor_mode": "min", "keep_checkpoints": 1}
        others = {**defaults, "reader": "petastorm", "objects": objects, **options}
        plan = written_plan(tmp_path, content, blocks, **others)
        result = train(plan, SoloCollectives(solo()), lambda content: None).result
        return from_bytes(plan.workspace.read(result.model_file), objects)

    return fit


def fit_in_keras(model: keras.Model) -> None:
    model.fit(X, Y, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)


def same(model: keras.Model, expected: keras.Model, tolerance: float = 1e-6) -> None:
    """The same weights, the same flags on each variable, the same state of the optimizer."""
    pairs = list(zip(model.weights, expected.weights, strict=True))
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), tolerance, tolerance, err_msg=theirs.path)
    assert [mine.trainable for mine, _ in pairs] == [theirs.trainable for _, theirs in pairs]
    flags = [[layer.trainable for layer in one._flatten_layers()] for one in (model, expected)]
    assert sorted(flags[0]) == sorted(flags[1])
    for mine, theirs in zip(model.optimizer.variables, expected.optimizer.variables, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), 1e-5, 1e-6, err_msg=theirs.path)


def small(optimizer: Any = "sgd", **options: Any) -> keras.Model:
    keras.utils.set_random_seed(2)
    layers = [keras.Input((WIDTH,)), L.Dense(3, "tanh", name="hidden"), L.Dense(1, name="out")]
    model = keras.Sequential(layers, name="small")
    model.compile(optimizer, "mse", run_eagerly=True, **options)
    return model


# --- optimizers ----------------------------------------------------------------------------------------------

WRAPPERS = (OP.LossScaleOptimizer, OP.MultiOptimizer)  # of others: below, and in each optimizer's second variant
OPTIMIZERS = [
    kind
    for name, kind in sorted(vars(OP).items())
    if isinstance(kind, type) and issubclass(kind, OP.Optimizer) and kind not in (OP.Optimizer, *WRAPPERS)
]


def by_names(kind: Any) -> keras.Model:
    options = {} if kind is OP.ScheduleFreeAdamW else {"use_ema": True, "ema_momentum": 0.5}
    optimizer = kind(0.01, weight_decay=0.5, clipnorm=0.1, ema_overwrite_frequency=2, **options)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return small(optimizer)


def by_variables(kind: Any) -> keras.Model:
    model = small()
    optimizer = kind(OP.schedules.ExponentialDecay(0.01, 1, 0.5), weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("hidden").kernel])
    optimizer.clipvalue = 0.05
    scaled = OP.LossScaleOptimizer(optimizer, initial_scale=8.0, dynamic_growth_steps=2)
    model.compile(scaled, "mse", run_eagerly=True)
    return model


@pytest.mark.parametrize("make", [by_names, by_variables])
@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_each_optimizer_trains_as_in_keras(fitted: Any, kind: Any, make: Any) -> None:
    model = make(kind)
    trained = fitted(model)
    fit_in_keras(model)
    same(trained, model)


def test_an_optimizer_for_each_layer_goes_by_paths(fitted: Any) -> None:
    model = small(OP.MultiOptimizer(OP.OptimizerMap(OP.SGD(0.01, 0.9), {"small/hidden/.*": OP.Adam(0.01)})))
    trained = fitted(fitted(model))
    fit_in_keras(model)
    fit_in_keras(model)
    same(trained, model)


@pytest.mark.parametrize("by", ["names", "variables"])
def test_a_given_optimizer_keeps_its_exclusions(fitted: Any, by: str) -> None:
    model = small()

    def excluding() -> Any:
        optimizer = OP.AdamW(0.01, weight_decay=1.0)
        kernel = model.get_layer("hidden").kernel
        optimizer.exclude_from_weight_decay(**{"var_list": [kernel]} if by == "variables" else {"var_names": ["bias"]})
        return optimizer

    given = excluding()
    trained = fitted(model, optimizer=given)
    assert not given.built
    model.compile(excluding(), "mse", run_eagerly=True)
    fit_in_keras(model)
    same(trained, model)


def test_exclusions_of_another_models_variables_are_refused() -> None:
    optimizer = OP.AdamW(0.01)
    optimizer.exclude_from_weight_decay(var_list=[small().weights[0]])
    with pytest.raises(OptionError, match=r"aren't the model's.*var_names"):
        compiled_copy(small(), optimizer, None, None)


def test_an_optimizer_that_was_replaced_or_counted_on_goes_on(fitted: Any) -> None:
    model = small(OP.Adam(OP.schedules.ExponentialDecay(0.1, 10, 0.1)))
    model.optimizer.iterations.assign(20)
    trained = fitted(model)
    fit_in_keras(model)
    same(trained, model)
    model.optimizer = OP.RMSprop(0.02)
    model.optimizer.learning_rate = 0.01
    trained = fitted(model)
    fit_in_keras(model)
    same(trained, model)


def test_a_second_fit_goes_on_with_the_optimizers_state(fitted: Any) -> None:
    model = small(OP.AdamW(0.01, weight_decay=0.5))
    trained = fitted(fitted(model))
    fit_in_keras(model)
    fit_in_keras(model)
    same(trained, model)
    assert int(trained.optimizer.iterations) == 2 * STEPS


# --- layers --------------------------------------------------------------------------------------------------

FLAT = {
    "Activation": lambda: L.Activation(L.PReLU()),
    "ActivityRegularization": lambda: L.ActivityRegularization(0.01),
    "AlphaDropout": lambda: L.AlphaDropout(0.3, seed=1),
    "BatchNormalization": lambda: L.BatchNormalization(momentum=0.5, gamma_regularizer="l2"),
    "Dense": lambda: L.Dense(3, L.PReLU(), kernel_constraint="max_norm", bias_regularizer="l1"),
    "Dropout": lambda: L.Dropout(0.3, seed=1),
    "ELU": lambda: L.ELU(0.5),
    "EinsumDense": lambda: L.EinsumDense("bi,io->bo", (3,), bias_axes="o"),
    "Embedding": lambda: L.Embedding(5, 2, embeddings_constraint="unit_norm"),
    "Flatten": lambda: L.Flatten(),
    "GaussianDropout": lambda: L.GaussianDropout(0.3, seed=1),
    "GaussianNoise": lambda: L.GaussianNoise(0.3, seed=1),
    "Identity": lambda: L.Identity(),
    "LayerNormalization": lambda: L.LayerNormalization(),
    "LeakyReLU": lambda: L.LeakyReLU(0.2),
    "PReLU": lambda: L.PReLU(),
    "RMSNormalization": lambda: L.RMSNormalization(),
    "ReLU": lambda: L.ReLU(3.0),
    "RepeatVector": lambda: L.RepeatVector(2),
    "Rescaling": lambda: L.Rescaling(0.5),
    "ReversibleEmbedding": lambda: L.ReversibleEmbedding(5, 2),
    "Softmax": lambda: L.Softmax(),
    "SpectralNormalization": lambda: L.SpectralNormalization(L.Dense(3)),
    "UnitNormalization": lambda: L.UnitNormalization(),
}
STEPPED = {
    "AveragePooling1D": lambda: L.AveragePooling1D(2),
    "Bidirectional": lambda: L.Bidirectional(L.LSTM(2)),
    "Conv1D": lambda: L.Conv1D(2, 2),
    "Conv1DTranspose": lambda: L.Conv1DTranspose(2, 2),
    "Cropping1D": lambda: L.Cropping1D(),
    "DepthwiseConv1D": lambda: L.DepthwiseConv1D(2),
    "GRU": lambda: L.GRU(2, reset_after=False),
    "GlobalAveragePooling1D": lambda: L.GlobalAveragePooling1D(),
    "GlobalMaxPooling1D": lambda: L.GlobalMaxPooling1D(),
    "LSTM": lambda: L.LSTM(2, dropout=0.3, seed=1),
    "Masking": lambda: L.Masking(1.0),
    "MaxPooling1D": lambda: L.MaxPooling1D(),
    "Permute": lambda: L.Permute((2, 1)),
    "RNN": lambda: L.RNN([L.LSTMCell(2), L.GRUCell(2)]),
    "SeparableConv1D": lambda: L.SeparableConv1D(2, 2),
    "SimpleRNN": lambda: L.SimpleRNN(2, recurrent_regularizer="l2"),
    "SpatialDropout1D": lambda: L.SpatialDropout1D(0.3, seed=1),
    "TimeDistributed": lambda: L.TimeDistributed(L.Dense(2, L.PReLU())),
    "UpSampling1D": lambda: L.UpSampling1D(),
    "ZeroPadding1D": lambda: L.ZeroPadding1D(),
}
PICTURES = {
    "AveragePooling2D": lambda: L.AveragePooling2D(2),
    "CenterCrop": lambda: L.CenterCrop(2, 2),
    "Conv2D": lambda: L.Conv2D(2, 2),
    "Conv2DTranspose": lambda: L.Conv2DTranspose(2, 2),
    "ConvLSTM1D": lambda: L.ConvLSTM1D(2, 2),
    "Cropping2D": lambda: L.Cropping2D(),
    "DepthwiseConv2D": lambda: L.DepthwiseConv2D(2),
    "GlobalAveragePooling2D": lambda: L.GlobalAveragePooling2D(),
    "GlobalMaxPooling2D": lambda: L.GlobalMaxPooling2D(),
    "GroupNormalization": lambda: L.GroupNormalization(1),
    "MaxPooling2D": lambda: L.MaxPooling2D(),
    "SeparableConv2D": lambda: L.SeparableConv2D(2, 2),
    "SpatialDropout2D": lambda: L.SpatialDropout2D(0.3, seed=1),
    "UpSampling2D": lambda: L.UpSampling2D(),
    "ZeroPadding2D": lambda: L.ZeroPadding2D(),
}
PAIRS = {
    **{kind.__name__: kind for kind in (L.Add, L.Average, L.Concatenate, L.Maximum, L.Minimum, L.Multiply, L.Subtract)},
    "AdditiveAttention": lambda: L.AdditiveAttention(dropout=0.3, seed=1),
    "Attention": lambda: L.Attention(use_scale=True, dropout=0.3, seed=1),
    "Dot": lambda: L.Dot(1),
    "GroupedQueryAttention": lambda: L.GroupQueryAttention(2, 4, 2, dropout=0.3, seed=1),
    "MultiHeadAttention": lambda: L.MultiHeadAttention(2, 2, dropout=0.3, seed=1),
}
# Without anything to learn or to set that isn't shown by another layer: pooling and cropping of other ranks; layers of
# images, sounds, texts and tables, which are put before a model (`transformFn`, `augment`); cells, which RNN holds.
NOT_COVERED = """AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D AdaptiveMaxPooling1D
AdaptiveMaxPooling2D AdaptiveMaxPooling3D AveragePooling3D MaxPooling3D GlobalAveragePooling3D GlobalMaxPooling3D
Cropping3D UpSampling3D ZeroPadding3D SpatialDropout3D Conv3D Conv3DTranspose ConvLSTM2D ConvLSTM3D
AugMix AutoContrast ContrastLimitedAdaptiveHistogramEqualization CutMix Equalization MaxNumBoundingBoxes MixUp
RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert
RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear
RandomTranslation RandomZoom Resizing Solarization MelSpectrogram STFTSpectrogram
CategoryEncoding Discretization HashedCrossing Hashing IntegerLookup Normalization StringLookup TextVectorization
LSTMCell GRUCell SimpleRNNCell StackedRNNCells
FlaxLayer JaxLayer TFSMLayer TorchModuleWrapper Lambda Layer Pipeline Wrapper InputLayer Reshape"""


def test_the_sweep_knows_every_layer_of_keras() -> None:
    kinds = {kind.__name__ for kind in vars(L).values() if isinstance(kind, type) and issubclass(kind, L.Layer)}
    assert kinds == FLAT.keys() | STEPPED.keys() | PICTURES.keys() | PAIRS.keys() | {*NOT_COVERED.split()}


def branched(table: dict[str, Any], shape: tuple[int, ...], arguments: int = 1) -> keras.Model:
    """Each layer on the features, side by side; flags are set on every third, and on a variable of the others."""
    keras.utils.set_random_seed(4)
    start = keras.Input((WIDTH,))
    features = L.Reshape(shape)(start)
    layers = {name: make() for name, make in table.items()}
    ends = []
    for layer in layers.values():
        apart = arguments == 1 or isinstance(layer, (L.MultiHeadAttention, L.GroupQueryAttention))
        end = layer(*[features] * arguments) if apart else layer([features] * arguments)
        ends.append(L.Dense(2)(L.Flatten()(end)))
    model = keras.Model(start, L.Dense(1)(L.Concatenate()(ends)))
    for number, layer in enumerate(layers.values()):
        if number % 3 == 0:
            layer.trainable = False
        elif layer.trainable_variables:
            layer.trainable_variables[-1].trainable = False
    model.compile(OP.SGD(1e-3), "mse", run_eagerly=True)
    return model


@pytest.mark.parametrize(
    ("table", "shape", "arguments"),
    [(FLAT, (WIDTH,), 1), (STEPPED, (4, 4), 1), (PICTURES, (4, 4, 1), 1), (PAIRS, (4, 4), 2)],
    ids=["flat", "steps", "pictures", "pairs"],
)
def test_each_layer_trains_as_in_keras(fitted: Any, table: Any, shape: Any, arguments: int) -> None:
    model = branched(table, shape, arguments)
    trained = fitted(model)
    fit_in_keras(model)
    same(trained, model)


def base() -> keras.Model:
    return keras.Sequential([L.Dense(4, "tanh"), keras.Sequential([L.Dense(4), L.BatchNormalization()])], name="base")


class Held(keras.layers.Layer):
    """Holds layers in a list and a dict."""

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.parts = [L.Dense(3), {"last": L.Dense(2, L.PReLU())}]
        self.scale = 1.0

    def build(self, shape: Any) -> None:
        self.parts[0].build(shape)
        self.parts[1]["last"].build((*shape[:-1], 3))

    def call(self, features: Any) -> Any:
        return self.scale * self.parts[1]["last"](self.parts[0](features))


def held() -> keras.Model:
    keras.utils.set_random_seed(6)
    model = keras.Sequential([keras.Input((WIDTH,)), base(), Held(), L.Dropout(0.5, seed=3), L.Dense(1)])
    model.compile(OP.Adam(0.01), "mse", run_eagerly=True)
    return model


def freeze_nested(model: keras.Model) -> None:
    model.get_layer("base").trainable = False


def freeze_within(model: keras.Model) -> None:
    model.get_layer("base").layers[1].trainable = False
    model.layers[1].parts[1]["last"].trainable = False


def set_attributes(model: keras.Model) -> None:
    model.layers[1].scale = 0.25
    model.get_layer("base").layers[0].kernel.regularizer = keras.regularizers.L2(0.1)
    model.get_layer("base").layers[0].kernel.constraint = keras.constraints.UnitNorm()
    model.layers[2].rate = 0.25
    model.get_layer("base").layers[0].activation = keras.activations.relu


def draw(model: keras.Model) -> None:
    model(X, training=True)


def freeze_after_compiling(model: keras.Model) -> None:
    model.optimizer.build(model.trainable_variables)
    model.layers[-1].trainable = False


@pytest.mark.parametrize("change", [freeze_nested, freeze_within, set_attributes, draw, freeze_after_compiling])
def test_what_is_set_on_layers_counts(fitted: Any, change: Any) -> None:
    model = held()
    change(model)
    if change in (freeze_nested, freeze_within):
        model.compile(OP.Adam(0.01), "mse", run_eagerly=True)
    trained = fitted(model)
    fit_in_keras(model)
    same(trained, model)


class Nameless(keras.layers.Layer):
    """Doesn't save its name."""

    def __init__(self, units: int, **others: Any) -> None:
        super().__init__(**others)
        self.units, self.inner = units, L.Dense(units)

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, features: Any) -> Any:
        return self.inner(features)

    def get_config(self) -> dict[str, Any]:
        return {"units": self.units}


def test_layers_with_other_names_on_ranks_are_compared(fitted: Any) -> None:
    keras.utils.set_random_seed(8)
    start = keras.Input((WIDTH,))
    ends = [Nameless(4, name=name)(start) for name in "cab"]
    model = keras.Model(start, L.Dense(1)(L.Concatenate()(ends[::-1])))
    model.get_layer("a").trainable = False
    model.get_layer("b").inner.bias.trainable = False
    model.compile("sgd", "mse", run_eagerly=True)
    trained = fitted(model)
    fit_in_keras(model)
    same(trained, model)


class Renamed(keras.layers.Layer):
    """Saves a name that it doesn't take."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 3))

    def call(self, features: Any) -> Any:
        return features @ self.kernel

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**{name: value for name, value in config.items() if name != "name"})

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


def test_what_keras_loads_with_all_that_it_holds_is_not_refused() -> None:
    model = keras.Sequential([keras.Input((WIDTH,)), Renamed(name="q"), Renamed(name="p"), L.Dense(1)])
    copy = compiled_copy(model, "sgd", "mse", None)
    for mine, theirs in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_nested_base_can_be_unfrozen_after_a_fit(fitted: Any) -> None:
    model = held()
    freeze_nested(model)
    model.compile(OP.Adam(0.01), "mse", run_eagerly=True)
    trained = fitted(model)
    before = [weights.copy() for weights in trained.get_layer("base").get_weights()]
    trained.get_layer("base").trainable = True
    with pytest.warns(RuntimeWarning, match="starts without state"):
        again = fitted(trained)
    moved = [
        bool(np.any(one != other)) for one, other in zip(before, again.get_layer("base").get_weights(), strict=True)
    ]
    assert all(moved)


def adapted(kind: str) -> keras.Model:
    keras.utils.set_random_seed(7)
    first = L.Embedding(5, 3) if kind == "embedding" else L.Dense(3)
    model = keras.Sequential([keras.Input((WIDTH,)), first, L.Flatten(), L.Dense(1)])
    if kind == "int8":
        first.quantize("int8")
    if kind != "int8":
        first.enable_lora(2)
    model.compile(OP.Adam(0.01), "mse", run_eagerly=True)
    return model


@pytest.mark.parametrize("kind", ["dense", "embedding", "int8"])
def test_low_rank_and_quantized_layers_train_as_in_keras(fitted: Any, kind: str) -> None:
    model = adapted(kind)
    trained = fitted(model)
    fit_in_keras(model)
    same(trained, model)


class Unsaved(keras.layers.Layer):
    """Draws what it neither saves nor tells."""

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.table = np.random.default_rng().normal(size=WIDTH).astype("float32")

    def call(self, features: Any) -> Any:
        return features * self.table


def test_what_can_not_be_carried_is_refused_by_its_name() -> None:
    model = keras.Sequential([keras.Input((WIDTH,)), Unsaved(name="drawn"), L.Dense(1)])
    with pytest.raises(ModelError, match=r"isn't the same.*'table' of drawn \(Unsaved\).*get_config"):
        compiled_copy(model, "sgd", "mse", None)


# --- compile options -----------------------------------------------------------------------------------------


def test_compile_options_stay_where_one_is_given() -> None:
    model = small(steps_per_execution=2, weighted_metrics=["mae"], metrics=["mse"])
    copy = compiled_copy(model, None, "mae", None)
    assert copy.run_eagerly
    assert copy.steps_per_execution == 2
    assert copy.get_compile_config()["weighted_metrics"] == ["mae"]
    assert from_bytes(to_bytes(copy)).run_eagerly


# --- Keras's settings ----------------------------------------------------------------------------------------


@pytest.fixture
def settings() -> Iterator[None]:
    """Those of this process are put back."""
    before = keras.config.floatx(), keras.config.epsilon(), keras.config.dtype_policy()
    yield
    reset()
    keras.config.set_floatx(before[0])
    keras.config.set_epsilon(before[1])
    keras.config.set_dtype_policy(before[2])


def reset() -> None:
    """As a rank's process is."""
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.enable_flash_attention()


def underflowing() -> keras.Model:
    keras.utils.set_random_seed(1)
    last = L.Dense(1, dtype="float32", kernel_initializer=keras.initializers.Constant(1e-6))
    model = keras.Sequential([keras.Input((WIDTH,)), L.Dense(4, "relu"), last])
    model.compile(OP.SGD(1e3), "mse", run_eagerly=True)
    return model


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.usefixtures("settings")
def test_a_global_dtype_policy_counts_on_ranks(fitted: Any, policy: str, given: bool) -> None:
    keras.config.set_dtype_policy(policy)
    model = underflowing()
    content = compiled_copy(model, OP.SGD(1e3) if given else None, None, None)
    kind = OP.LossScaleOptimizer if policy == "mixed_float16" else OP.SGD
    assert type(content.optimizer) is kind
    reset()
    trained = fitted(content)
    assert type(trained.optimizer) is kind
    assert keras.config.dtype_policy().name == "float32"
    assert [layer.dtype_policy.name for layer in trained.layers] == [policy, "float32"]
    keras.config.set_dtype_policy(policy)
    fit_in_keras(model)
    same(trained, model, 1e-3)


@pytest.mark.usefixtures("settings")
def test_loss_scaling_that_was_turned_off_stays_off() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    model = underflowing()
    model.compile(OP.SGD(1.0), "mse", auto_scale_loss=False)
    assert type(compiled_copy(model, None, None, None).optimizer) is OP.SGD
    assert type(from_bytes(to_bytes(model)).optimizer) is OP.SGD


class Tell(keras.callbacks.Callback):
    """Notes Keras's settings as training sees them."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.model.settings_seen = [
            *(keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format()),
            keras.config.is_flash_attention_enabled(),
        ]
        raise InterruptedError(str(self.model.settings_seen))


@pytest.mark.usefixtures("settings")
def test_all_settings_count_on_ranks_and_are_put_back(fitted: Any) -> None:
    keras.config.set_epsilon(1e-3)
    keras.config.set_image_data_format("channels_first")
    keras.config.disable_flash_attention()
    copy = compiled_copy(small(), None, None, None)
    content = to_bytes(copy)
    reset()
    with pytest.raises(InterruptedError, match=r"'float32', 0.001, 'channels_first', False"):
        fitted(small(), content=content, callbacks=[Tell()])
    assert (keras.config.epsilon(), keras.config.image_data_format()) == (1e-7, "channels_last")
    assert keras.config.is_flash_attention_enabled() is not False


# --- the archive ---------------------------------------------------------------------------------------------


def test_keras_opens_what_is_written_and_what_keras_writes_is_opened(tmp_path: Path) -> None:
    model = held()
    path = tmp_path / "ours.keras"
    path.write_bytes(to_bytes(model))
    objects = {"Held": Held}
    model.save(tmp_path / "theirs.keras")
    theirs = from_bytes((tmp_path / "theirs.keras").read_bytes(), objects)
    for loaded in (keras.saving.load_model(path, objects), theirs):
        assert loaded.compiled
        for mine, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, expected)


def test_a_record_that_reaches_for_other_files_is_refused() -> None:
    content = to_bytes(small())
    hostile = io.BytesIO()
    with h5py.File(hostile, "w") as file:
        file["record"] = h5py.ExternalLink("/etc/passwd", "x")
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(written, "w") as target:
        for name in source.namelist():
            target.writestr(name, hostile.getvalue() if name == "spark_dl.h5" else source.read(name))
    with pytest.raises(SavedModelError, match="weights that are a link"):
        from_bytes(written.getvalue())


@pytest.mark.parametrize("kind", [keras.losses.CategoricalGeneralizedCrossEntropy, keras.losses.Dice, keras.losses.CTC])
def test_a_loss_that_keras_knows_only_by_its_class_is_copied_and_saved(kind: Any) -> None:
    copy = compiled_copy(small(), "sgd", kind(name="own"), None)
    for model in (copy, from_bytes(to_bytes(copy))):
        assert keras.saving.serialize_keras_object(model.loss) == keras.saving.serialize_keras_object(kind(name="own"))
