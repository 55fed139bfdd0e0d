"""Check of the options padding and truncate against the columns that a fit reads."""

from __future__ import annotations

from collections.abc import Sequence

from spark_dl.errors import OptionError, explain, hint
from spark_dl.options import ColumnOptions

__all__ = ["check_padding"]


def check_padding(options: ColumnOptions, names: Sequence[str]) -> None:
    """Check that padding names only columns that are read, and that truncate isn't set without it.

    Args:
        options: The column options.
        names: The columns of features, labels and weights.

    Raises:
        OptionError: padding names another column, or truncate has nothing to cut.
    """
    for name in options.padding or {}:
        if name not in names:
            raise OptionError(
                explain(
                    f"padding names {name!r}, which isn't a column of the model.",
                    expected=f"columns among {', '.join(names)}",
                    received=f"padding={options.padding}",
                    fix=hint(name, names),
                )
            )
    if options.truncate != "error" and not options.padding:
        raise OptionError(
            explain(
                "truncate is set without padding.",
                expected="padding, with a value for each column whose rows vary in length",
                received=f"truncate={options.truncate!r}, padding={options.padding}",
                fix=f"Set padding={{{names[0]!r}: 0}}.",
            )
        )
