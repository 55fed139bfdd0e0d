"""Checks of the driver and of every executor for what a fit needs, with the fix for each fault."""

from spark_dl.diagnosis.checks import doctor, preflight
from spark_dl.diagnosis.report import Finding, Report

__all__ = ["Finding", "Report", "doctor", "preflight"]
