"""Launch settings of ranks as one record: the user's launch options, and the start timeout."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dl.options import LaunchOptions

__all__ = ["LaunchSettings"]


@dataclass(frozen=True, kw_only=True)
class LaunchSettings(LaunchOptions):
    """Launch options, with the settings that aren't options.

    Attributes:
        start_timeout: The seconds that ranks have, once all have slots, to start Horovod.
    """

    start_timeout: float = 180.0

    @staticmethod
    def of(options: LaunchOptions) -> LaunchSettings:
        """Take the settings from the options of an estimator or a launcher."""
        return options.part(LaunchSettings)
