"""Settings of a launch: the user's launch options, and what the ranks' processes are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spark_dl.options import LaunchOptions

if TYPE_CHECKING:
    from spark_dl.launch.pool import RankPool

__all__ = ["LaunchSettings", "ProcessSettings"]


@dataclass(frozen=True, kw_only=True)
class LaunchSettings(LaunchOptions):
    """Launch options by themselves, of an estimator or a launcher."""

    @staticmethod
    def of(options: LaunchOptions) -> LaunchSettings:
        """Take the settings from the options of an estimator or a launcher."""
        return options.part(LaunchSettings)


@dataclass(frozen=True)
class ProcessSettings:
    """Settings of the ranks' processes.

    Attributes:
        modules: The modules that the function imports besides TensorFlow and Horovod. An executor imports them once
            for all calls.
        pool: The pool whose waiting processes a launch may use, and that its own processes join; None for processes
            that end with the launch.
    """

    modules: tuple[str, ...] = ()
    pool: RankPool | None = None
