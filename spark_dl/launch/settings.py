"""How ranks are launched, as one record."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dl.options import LaunchOptions

__all__ = ["LaunchSettings"]


@dataclass(frozen=True, kw_only=True)
class LaunchSettings(LaunchOptions):
    """The options of launching, and what no option sets.

    Attributes:
        start_timeout: Seconds from the slots to the first collective.
    """

    start_timeout: float = 180.0

    @staticmethod
    def of(options: LaunchOptions) -> LaunchSettings:
        """The settings from the options of an estimator or a launcher."""
        return options.part(LaunchSettings)
