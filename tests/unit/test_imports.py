"""Importing with the garbage collector off, and on again whatever happens; and what workers forget of archives."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import zipfile
import zipimport
from pathlib import Path

import pytest

from spark_dl.gc_pause import gc_paused
from spark_dl.spark.python_worker import purge_zipimport_cache


def test_the_collector_is_off_meanwhile_and_on_again() -> None:
    with gc_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_is_on_again_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), gc_paused():
        raise ImportError
    assert gc.isenabled()


def test_who_has_no_collector_gets_none() -> None:
    gc.disable()
    try:
        with gc_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_archives_are_forgotten_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, jar, other = (tmp_path / name for name in ("modules.zip", "spark-core_2.13-4.0.5.jar", "mine.jar"))
    for path, name in ((archive, "first_of"), (jar, "org"), (other, "of_mine")):
        with zipfile.ZipFile(path, "w") as target:
            target.writestr(f"{name}.py", "VALUE = 7")
    monkeypatch.setattr(sys, "path", [str(archive), str(jar), str(other), *sys.path])
    assert importlib.import_module("first_of").VALUE == 7
    assert isinstance(sys.path_importer_cache[str(archive)], zipimport.zipimporter)
    purge_zipimport_cache()
    assert not [path for path, finder in sys.path_importer_cache.items() if isinstance(finder, zipimport.zipimporter)]
    assert str(jar) not in sys.path
    assert importlib.import_module("of_mine").VALUE == 7


def test_imports_settle_once_so_that_models_are_freed() -> None:
    program = """
import gc, weakref
from spark_dl.spark.python_worker import settle_imports

class Thing: ...

settle_imports()
frozen = gc.get_freeze_count()
thing = Thing()
thing.itself, seen = thing, weakref.ref(thing)
settle_imports()
del thing
gc.collect()
print(frozen > 1000, gc.get_freeze_count() <= frozen, seen() is None)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "True", "True"]


def test_a_task_that_evaluates_no_rows_doesnt_import_tensorflow() -> None:
    """Where there are rows, `Evaluation.load` imports it: with a task's threads, and without its start-up lines."""
    program = """
import sys
from spark_dl.data.column import Column
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.io.payload import Payload
from spark_dl.io.store import Store
from spark_dl.score.evaluate import Evaluation, _evaluate_partition

column = Column("x", "number", "float32", 1)
conversion = ConversionSpec(
    Store(""), (FeatureSpec((column,), (1,), "float32"),), (LabelSpec(column, (), "float32", None),)
)
(records,) = _evaluate_partition(Evaluation(Payload(b""), b"", conversion, 32), iter(()))
print(records.to_pydict()["rows"], "tensorflow" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["[0]", "False"]
