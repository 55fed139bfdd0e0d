"""For tools that look for this file: the package is described in pyproject.toml."""

from setuptools import setup

setup()
