"""Importing with the garbage collector off, and on again whatever happens."""

from __future__ import annotations

import gc

import pytest

from spark_dl.imports import importing


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
