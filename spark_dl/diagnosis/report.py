"""What was found, and the table that shows it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding", "Report"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        where: "driver", "cluster", or an executor's address.
        what: what was looked at.
        found: what was found.
        fix: what to do about it; "" where all is well.
    """

    where: str
    what: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Report:
    """What `doctor` found. `print(report)` shows it as a table."""

    findings: tuple[Finding, ...]

    @property
    def faults(self) -> list[Finding]:
        """The findings that need a fix."""
        return [finding for finding in self.findings if finding.fix]

    def __str__(self) -> str:
        rows = [("where", "what", "found", "")]
        rows += [(f.where, f.what, f.found, "FAULT" if f.fix else "ok") for f in self.findings]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        for fault in self.faults:
            lines.append(f"FAULT on {fault.where}, {fault.what}: {fault.found}. {fault.fix}")
        lines.append(f"{len(self.faults)} fault{'s' * (len(self.faults) != 1)} found.")
        return "\n".join(lines)
