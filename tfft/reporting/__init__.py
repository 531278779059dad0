"""HTML pages: the report of a run, :func:`write_report`, and explanations, :func:`write_explanations`."""

from __future__ import annotations

from tfft.reporting.explanations import write_explanations
from tfft.reporting.report import write_report

__all__ = ["write_explanations", "write_report"]
