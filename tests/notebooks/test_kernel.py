"""What happens in a kernel: output in place, and an interrupt in the middle of a fit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from notebook_script import script
from processes import ranks
from sessions import short_lived

SETUP = """
import spark_dl
spark_dl.quiet_start()
import keras
from pyspark.sql import SparkSession
from spark_dl import KerasRegressor

spark = SparkSession.builder.master("local[2]").config("spark.ui.showConsoleProgress", "false").getOrCreate()
rows = spark.range(200).selectExpr("array(id / 200) AS features", "id / 100 AS label")
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
def regressor(epochs):
    return KerasRegressor(model=model, loss="mse", numWorkers=2, epochs=epochs, tracking=None)
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    # Spark logs warnings, as it does by default.
    environment = {**script.environment(), "SPARK_SUBMIT_OPTS": short_lived()}
    environment.pop("PYTEST_CURRENT_TEST", None)  # with it, a kernel doesn't show what other processes write
    manager, client = start_new_kernel(env=environment, cwd=str(tmp_path))
    try:
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def outputs(client: BlockingKernelClient, code: str) -> list[dict[str, Any]]:
    """Run code in the kernel; return the messages that it shows."""
    shown: list[dict[str, Any]] = []
    reply = client.execute_interactive(code, timeout=120, output_hook=shown.append)
    assert reply["content"]["status"] == "ok", reply["content"]
    return [one for one in shown if one["msg_type"] not in ("status", "execute_input")]


def stderr(client: BlockingKernelClient, code: str) -> str:
    """Run code in the kernel; return what all its processes have written to stderr: it passes one pipe, in order."""
    client.execute(f"{code}\nimport os\nos.write(2, b'the end')")
    text = ""
    while "the end" not in text:
        message = client.get_iopub_msg(timeout=120)
        assert message["msg_type"] != "error", message["content"]
        text += message["content"]["text"] if message["msg_type"] == "stream" else ""
    return text


def test_a_fit_is_one_output_and_an_interrupt_ends_its_ranks(
    kernel: tuple[KernelManager, BlockingKernelClient],
) -> None:
    manager, client = kernel
    assert "absl::" not in str(outputs(client, SETUP))
    fitted = outputs(client, "fitted = regressor(2).fit(rows); fitted.summary.rows")
    first, *updates, result = [one for one in fitted if one["msg_type"] != "stream"]
    assert first["msg_type"] == "display_data"
    assert {one["msg_type"] for one in updates} == {"update_display_data"}
    lines = updates[-1]["content"]["data"]["text/plain"].splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["Epoch 1/2", "Epoch 2/2"]
    assert result["content"]["data"]["text/plain"] == "200"
    assert "FileNotFoundException" not in stderr(client, "fitted.save('saved')")

    # An error would make the kernel refuse, for a moment, what is sent next.
    message = client.execute("regressor(10**6).fit(rows)", stop_on_error=False)
    while "Epoch 1/" not in client.get_iopub_msg(timeout=120)["content"].get("data", {}).get("text/plain", ""):
        pass
    assert len(ranks()) == 2
    manager.interrupt_kernel()
    while (reply := client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != message:
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    end = time.monotonic() + 60
    while ranks():
        assert time.monotonic() < end
        time.sleep(0.05)
    outputs(client, "assert rows.count() == 200; assert regressor(1).fit(rows).summary.rows == 200")
