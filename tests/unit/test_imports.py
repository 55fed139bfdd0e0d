"""Importing with the garbage collector off: once, and never for what may become garbage."""

from __future__ import annotations

import subprocess
import sys

FIRST = """
import gc
from spark_dl.imports import importing
with importing():
    assert not gc.isenabled()
    import tensorflow
assert gc.isenabled()
frozen = gc.get_freeze_count()
assert frozen > 100_000
with importing():
    assert gc.isenabled()
    kept = [[] for _ in range(1000)]
assert gc.get_freeze_count() == frozen
print("as it was")
"""


def test_what_is_made_after_the_first_import_stays_collectable() -> None:
    ran = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=False)
    assert ran.stdout == "as it was\n", ran.stderr


def test_the_collector_is_on_again_after_an_import_that_failed() -> None:
    program = """
import gc
from spark_dl.imports import importing
try:
    with importing():
        import no_such_module
except ImportError:
    print(gc.isenabled(), gc.get_freeze_count())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.stdout == "True 0\n", ran.stderr
