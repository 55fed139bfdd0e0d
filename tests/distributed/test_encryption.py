"""A cluster that is told to encrypt: ranks that speak plain TCP are refused there, unless it is allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from sessions import session
from spark_dl import HorovodLauncher
from spark_dl.errors import ClusterError

def rank():
    import horovod.tensorflow as hvd
    return hvd.rank()

settings = {"authenticate": "true", "authenticate_secret": "of the test", "network_crypto_enabled": "true"}
with session("local-cluster[2,1,1024]", **settings) as spark:
    try:
        HorovodLauncher(2).run(rank)
    except ClusterError as error:
        print(error)
    print(HorovodLauncher(2, allowPlaintext=True).run(rank))
"""


def test_plain_tcp_where_spark_encrypts_is_refused_unless_allowed() -> None:
    tests = Path(__file__).parent.parent
    ran = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tests, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    refusal, ranks = ran.stdout.splitlines()
    assert refusal.startswith(
        "Spark is configured to encrypt, but Horovod's ranks use plain TCP. Expected: allowPlaintext="
    )
    assert "Received: spark.network.crypto.enabled=true." in refusal
    assert ranks == "[0, 1]"
