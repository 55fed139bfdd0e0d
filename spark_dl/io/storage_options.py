"""Options of a file system, such as credentials, whose values are in no text that leaves the process."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from spark_dl.errors import OptionError, explain
from spark_dl.redaction import REDACTED

__all__ = ["ENVIRONMENT", "StorageOptions", "is_storage_options"]

# The driver's variable with the options as JSON, where the param storageOptions isn't set.
ENVIRONMENT = "SPARK_DL_STORAGE_OPTIONS"
# Options that are no secrets, and are left in error messages.
_HARMLESS = ("region", "scheme", "endpoint_override", "user", "username", "host", "project", "project_id")
# Shorter texts are no secrets, but parts of words.
_SHORTEST_SECRET = 4
# Secret keys of S3 have slashes, which URLs in the errors of HTTP libraries escape.
_SPELLINGS = (str, quote, functools.partial(quote, safe=""), quote_plus)


class StorageOptions:
    """Options of a file system by their names. `dict(options)` has the values; `str` and `repr` show the names only.

    It is no Mapping, so that nothing that formats, redacts or encodes nested values takes it for one.

    Args:
        values: The options: strings, numbers and booleans.
    """

    def __init__(self, values: Mapping[str, str | bool | float] | StorageOptions | None = None) -> None:
        self._values: dict[str, str | bool | float] = dict(values or {})

    @staticmethod
    def of(given: Mapping[str, Any] | StorageOptions | None) -> StorageOptions:
        """Return the given options; without them, those of the variable SPARK_DL_STORAGE_OPTIONS of this process.

        Args:
            given: The value of the param storageOptions; None if it isn't set.

        Raises:
            OptionError: The variable has no JSON object of strings, numbers and booleans.
        """
        text = os.environ.get(ENVIRONMENT, "")
        if given is not None or not text:
            return StorageOptions(given)
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not is_storage_options(values):
            raise OptionError(
                explain(
                    f"The variable {ENVIRONMENT} can't be used.",
                    expected='a JSON object of strings, numbers and booleans, such as {"region": "eu-west-1"}',
                    received=f"a string of {len(text)} characters that isn't one",
                    fix="Correct it, or unset it.",
                )
            ) from None
        return StorageOptions(values)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that no text may have, also as a URL spells them, the longest first."""
        texts = [str(value) for name, value in self._values.items() if name not in _HARMLESS and isinstance(value, str)]
        spelled = {way(text) for text in texts if len(text) >= _SHORTEST_SECRET for way in _SPELLINGS}
        return tuple(sorted(spelled, key=len, reverse=True))

    def keys(self) -> list[str]:
        """Return the names."""
        return list(self._values)

    def __getitem__(self, name: str) -> str | bool | float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StorageOptions):
            return self._values == other._values
        return isinstance(other, Mapping) and self._values == other

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name!r}: {REDACTED}' for name in self._values)}}}"


def is_storage_options(value: Any) -> bool:
    """Return whether a value is a dict from strings to strings, numbers and booleans."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(one, (str, bool, int, float)) for name, one in value.items()
    )
