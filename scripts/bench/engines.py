"""Engines of scoring side by side: `python scripts/bench/engines.py`.

Three nets, trained for some epochs on the handwritten digits of scikit-learn (8 x 8 pixels), are scored by Keras, by
Keras with int8 weights (`quantize`), by ONNX Runtime and by LiteRT: accuracy on held-out rows, the size of what is
sent to the executors, the CPU seconds from the start of a Python process to the first 1,000 predictions, and the rows
per CPU second after that. Each measurement runs in a process of its own on one core, with the code that a Spark task
runs; the medians are of three processes. Spark, which reads and writes the same rows for all engines, isn't measured.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS, FIRST, RUNS, BATCH = 50_000, 1_000, 3, 4096


def measure(directory: Path) -> None:
    """Run as a process: score, and print CPU seconds to the first predictions, rows per CPU second, and accuracy."""
    import cloudpickle
    import numpy as np

    model = cloudpickle.loads((directory / "model").read_bytes())
    pixels = np.load(directory / "pixels.npy")
    found = model.outputs([pixels[:FIRST]])["prediction"]
    cold = time.process_time()
    many = np.resize(pixels, (ROWS, *pixels.shape[1:]))
    model.outputs([many[:BATCH]])
    start = time.process_time()
    model.outputs([many])
    warm = ROWS / (time.process_time() - start)
    held = np.load(directory / "labels.npy")
    result = {"cold": cold, "warm": warm, "accuracy": float((found[: len(held)] == held).mean())}
    print(json.dumps(result))


def nets() -> dict[str, Any]:
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(1)
    pixels = keras.Input((8, 8, 1))
    tokens = layers.Dense(32)(layers.Reshape((8, 8))(pixels))
    attended = layers.LayerNormalization()(tokens + layers.MultiHeadAttention(4, 8)(tokens, tokens))
    return {
        "dense 64-512-512-10": keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Flatten(), *(layers.Dense(512, "relu") for _ in range(2)), layers.Dense(10)]
        ),
        "CNN 32-64": keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(32, 3, padding="same", activation="relu"),
                layers.Conv2D(64, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(10),
            ]
        ),
        "attention 4 x 8": keras.Model(pixels, layers.Dense(10)(layers.Flatten()(attended))),
    }


def shipped(model: Any, engine: str) -> tuple[bytes, int]:
    """What a task gets: the pickled scoring model, and the size of the model's file in it."""
    import cloudpickle

    from spark_dl import KerasClassifierModel
    from spark_dl.data.column import Column
    from spark_dl.data.specs import FeatureSpec

    fitted = KerasClassifierModel.fromKeras(model, outputKind="logits", columnShapes={"features": [8, 8, 1]})
    if engine == "keras int8":
        fitted = fitted.quantize("int8")
    fitted.setScoreEngine(engine.partition(" ")[0])
    content, head = fitted._scored()
    spec = FeatureSpec((Column("features", "array", "float32", 64),), (8, 8, 1), "float32")
    made = fitted._scoring_model(content, head, [spec])
    return cloudpickle.dumps(made), len(made.content.load())


def main() -> None:
    import keras
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images / 16).astype("float32")[..., None]
    train, held = slice(0, 1300), slice(1300, None)
    print("| net | engine | accuracy | size | first 1,000 rows, cold | warm |")
    print("|---|---|---|---|---|---|")
    for name, net in nets().items():
        net.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        net.fit(pixels[train], digits.target[train], epochs=15, verbose=0)
        plain = type(net).from_config(
            net.get_config()
        )  # without the optimizer's state, which is larger than the weights
        plain.set_weights(net.get_weights())
        for engine in ("keras", "keras int8", "onnx", "litert"):
            with tempfile.TemporaryDirectory() as directory:
                content, size = shipped(plain, engine)
                Path(directory, "model").write_bytes(content)
                np.save(f"{directory}/pixels.npy", np.resize(pixels[held], (FIRST, 8, 8, 1)))
                np.save(f"{directory}/labels.npy", digits.target[held])
                results = [run(directory) for _ in range(RUNS)]
            middle = {key: statistics.median(one[key] for one in results) for key in results[0]}
            print(
                f"| {name} | {engine} | {middle['accuracy']:.3f} | {size / 1e6:.2f} MB | {middle['cold']:.1f} CPU s "
                f"| {middle['warm']:,.0f} rows / CPU s |",
                flush=True,
            )


def run(directory: str) -> dict[str, float]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    core = max(os.sched_getaffinity(0))
    command = [sys.executable, __file__, "--measure", directory]
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]))
    else:
        main()
