"""Findings of the checks, and the report that shows them as a table."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding", "Report"]


@dataclass(frozen=True)
class Finding:
    """Finding of one check, a line of the report.

    Attributes:
        where: "driver", "cluster", or an executor's address.
        what: The thing checked, such as a package or a directory.
        found: The result, such as a version.
        fix: The fix of a fault; "" if there is no fault.
    """

    where: str
    what: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Report:
    """Result of `doctor`. `print(report)` shows it as a table.

    Attributes:
        findings: All findings.
    """

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
