"""Importing with the garbage collector off, and on again whatever happens; and what workers forget of archives."""

from __future__ import annotations

import gc
import importlib
import sys
import zipfile
import zipimport
from pathlib import Path

import pytest

from spark_dl.imports import importing
from spark_dl.python_worker import forget_archives


def test_the_collector_is_off_meanwhile_and_on_again() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_is_on_again_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


def test_who_has_no_collector_gets_none() -> None:
    gc.disable()
    try:
        with importing():
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
    forget_archives()
    assert not [path for path, finder in sys.path_importer_cache.items() if isinstance(finder, zipimport.zipimporter)]
    assert str(jar) not in sys.path
    assert importlib.import_module("of_mine").VALUE == 7
