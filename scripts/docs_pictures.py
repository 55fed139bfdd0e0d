"""Make the pictures of docs/images: screenshots of an MLflow run's page, in a headless browser.

It fits scikit-learn's digits into a store of its own, serves MLflow's page on it and takes the pictures. The browser
isn't part of set-up: `pip install playwright`, and either Chromium of the system (Debian: `apt-get install chromium`)
or `playwright install chromium`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
LARGEST = 100_000  # bytes
SIZE = {"width": 1300, "height": 1000}
# Picture -> the end of the tab's address, and a text that is there when it is drawn.
TABS = {
    "mlflow_run": ("", "best epoch"),
    "mlflow_metrics": ("/model-metrics", "loss"),
    "mlflow_artifacts": ("/artifacts/validation/confusion_matrix.png", "validation"),
}
# MLflow opens a chat beside a page that is seen for the first time.
NO_CHAT = """
    localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
    localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
# The address of an artifact is a directory of this machine.
NO_PATH = """() => {
    const path = document.evaluate("//text()[starts-with(., 'Path:')]/..", document).iterateNext();
    if (path) path.parentElement.style.visibility = "hidden";
}"""


def fit() -> tuple[str, str]:
    """Fit digits; return the ids of the experiment and the run."""
    import keras
    import mlflow
    from pyspark.sql import SparkSession
    from sklearn.datasets import load_digits

    from spark_dl import KerasClassifier

    spark = SparkSession.builder.master("local[2]").config("spark.ui.showConsoleProgress", "false").getOrCreate()
    digits = load_digits()
    rows = spark.createDataFrame(
        [(image.tolist(), int(label)) for image, label in zip(digits.data / 16, digits.target, strict=True)],
        "features array<float>, label int",
    )
    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10, activation="softmax")]
    )
    model = KerasClassifier(
        model=network,
        optimizer=keras.optimizers.Adam(0.003),
        metrics=["accuracy"],
        numWorkers=2,
        batchSize=32,
        epochs=10,
        validationFraction=0.2,
        experimentName="digits",
        registeredModelName="digits",
    ).fit(rows)
    run = mlflow.get_run(model.summary.run_id)
    spark.stop()
    return run.info.experiment_id, run.info.run_id


@contextmanager
def page(port: int = 5099) -> Iterator[str]:
    """Serve MLflow's page on the store; yield its address."""
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            try:
                urllib.request.urlopen(address, timeout=30).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def take(address: str, experiment: str, run: str) -> None:
    """Take the pictures, and save them with few colours, which keeps them small."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page(viewport=SIZE)
        window.set_default_timeout(120_000)
        window.add_init_script(NO_CHAT)
        for name, (tab, text) in TABS.items():
            window.goto(f"{address}/#/experiments/{experiment}/runs/{run}{tab}")
            window.get_by_text(text).first.wait_for()
            if name == "mlflow_metrics":
                window.get_by_placeholder("Search metric charts").fill("accuracy|loss")
                window.wait_for_function("document.querySelectorAll('.scatterlayer .js-line').length >= 4")
            window.wait_for_timeout(5_000)  # plots are drawn after their titles
            window.evaluate(NO_PATH)
            target = IMAGES / f"{name}.png"
            window.screenshot(path=target)
            Image.open(target).convert("RGB").quantize(64).save(target, optimize=True)
            size = target.stat().st_size
            print(f"{target.name}: {size / 1000:.0f} kB")
            if size > LARGEST:
                raise SystemExit(f"{target.name} has {size} bytes: at most {LARGEST}.")
        browser.close()


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        os.chdir(directory)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{directory}/mlflow.db"
        experiment, run = fit()
        with page() as address:
            take(address, experiment, run)


if __name__ == "__main__":
    main()
