"""Is everything there that a fit needs? On the driver and on every executor, with the fix for each fault."""

from spark_dl.diagnosis.checks import doctor, preflight
from spark_dl.diagnosis.report import Finding, Report

__all__ = ["Finding", "Report", "doctor", "preflight"]
