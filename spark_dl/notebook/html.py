"""Small pieces of HTML: tables, and curves as inline SVG. All texts are escaped, and credentials are redacted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from spark_dl.redaction import redact

__all__ = ["curve", "heading", "table"]

_WIDTH, _HEIGHT, _MARGIN = 260, 80, 6
_COLOURS = ("#1f77b4", "#ff7f0e")
_LONGEST = 200


def heading(title: str, detail: str = "") -> str:
    """Make a title, with a less prominent detail after it."""
    return f"<p><b>{_text(title)}</b> <code>{_text(detail)}</code></p>" if detail else f"<p><b>{_text(title)}</b></p>"


def table(rows: Mapping[str, object], caption: str = "") -> str:
    """Make a table of names and values; empty if there are no rows. Long values are cut."""
    if not rows:
        return ""
    lines = [f"<tr><td>{_text(name)}</td><td><code>{_text(value)}</code></td></tr>" for name, value in rows.items()]
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    return f"<table>{title}{''.join(lines)}</table>"


def curve(lines: Mapping[str, Sequence[float]], label: str) -> str:
    """Draw lines over epochs, with their last values as a legend; empty if there is nothing to draw.

    Args:
        lines: The values of each line, by its name: two lines at most.
        label: What the picture shows, for readers who don't see it.
    """
    found = {name: [float(value) for value in values] for name, values in lines.items()}
    numbers = [value for values in found.values() for value in values if math.isfinite(value)]
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    parts = []
    for colour, values in zip(_COLOURS, found.values(), strict=False):
        points = " ".join(
            f"{_place(index, 0, len(values) - 1, _WIDTH):.1f},{_HEIGHT - _place(value, low, high, _HEIGHT):.1f}"
            for index, value in enumerate(values)
            if math.isfinite(value)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(values) == 1 and points:
            x, y = points.split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
    legend = " ".join(
        f'<span style="color:{colour}">{_text(name)} {values[-1]:.4g}</span>'
        for colour, (name, values) in zip(_COLOURS, found.items(), strict=False)
        if values
    )
    drawing = f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{_text(label)}">{"".join(parts)}</svg>'
    return f"<div>{drawing}<br>{legend}</div>"


def _place(value: float, low: float, high: float, size: int) -> float:
    """Scale a value to the drawing, within its margins."""
    part = (value - low) / (high - low) if high > low else 0.5
    return _MARGIN + part * (size - 2 * _MARGIN)


def _text(value: object) -> str:
    text = redact(str(value))
    return escape(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
