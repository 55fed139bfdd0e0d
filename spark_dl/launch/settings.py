"""Launch settings of ranks as one record: the user's launch options."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dl.options import LaunchOptions

__all__ = ["LaunchSettings"]


@dataclass(frozen=True, kw_only=True)
class LaunchSettings(LaunchOptions):
    """Launch options by themselves, of an estimator or a launcher."""

    @staticmethod
    def of(options: LaunchOptions) -> LaunchSettings:
        """Take the settings from the options of an estimator or a launcher."""
        return options.part(LaunchSettings)
