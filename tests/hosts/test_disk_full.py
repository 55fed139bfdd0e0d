"""A disk that fills up while ranks train, a tmpfs in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
PROGRAM = """
import json, sys
from pathlib import Path
import keras, models
from sessions import session
from spark_dl import KerasClassifier
from spark_dl.io.store import Store
from spark_dl.train.checkpoint import latest

disk = Path(sys.argv[1])

class Fill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        import horovod.tensorflow as hvd
        if epoch == 2 and hvd.rank() == 0:
            with open(disk / "filler", "wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(512))
                except OSError:
                    pass

with session("local-cluster[2,1,1024]") as spark:
    data = models.frame(spark)
    def fitted(**options):
        estimator = KerasClassifier(model=models.classifier(), numWorkers=2, epochs=4, tracking=None, **options)
        return [w.tolist() for w in estimator.fit(data).keras().get_weights()]
    same = fitted(verbose=0) == fitted(callbacks=[Fill()], checkpointDir=str(disk))
    (fit,) = (path for path in disk.iterdir() if path.is_dir())
    checkpoint, _ = latest(Store.at(str(fit)))
    left = sorted(path.name for path in fit.iterdir() if not path.name.startswith(("epoch-", "fit.json")))
    print(json.dumps({"same": same, "epoch": checkpoint.epoch, "left": left}))
"""


def test_a_full_disk_costs_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    alone = ALONE if os.geteuid() == 0 else [*ALONE, "--user", "--map-root-user"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody but root make mount namespaces")
    (tmp_path / "disk").mkdir()
    mount = f'mount -t tmpfs -o size=2m tmpfs {tmp_path}/disk && exec "$@"'
    command = [*alone, "bash", "-c", mount, "bash", sys.executable, "-c", PROGRAM, str(tmp_path / "disk")]
    tests = Path(__file__).parent.parent
    ran = subprocess.run(command, cwd=tests, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-5000:]
    assert ran.stdout.splitlines()[-1] == '{"same": true, "epoch": 2, "left": []}'
    assert "epoch-000003" in ran.stderr
    assert "No space left on device" in ran.stderr
