"""Versions of the installed packages, read once per process: what is imported stays the same, and reading is slow."""

from __future__ import annotations

import functools
import importlib.metadata

__all__ = ["pinned_packages", "version_of"]


@functools.cache
def version_of(distribution: str) -> str:
    """Return the version of an installed distribution.

    Raises:
        importlib.metadata.PackageNotFoundError: It isn't installed; the next call looks again.
    """
    return importlib.metadata.version(distribution)


@functools.cache
def pinned_packages() -> tuple[str, ...]:
    """List all installed distributions as name==version, sorted by name."""
    pins = {f"{one.metadata['Name']}=={one.version}" for one in importlib.metadata.distributions()}
    return tuple(sorted(pins, key=str.lower))
