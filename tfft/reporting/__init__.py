"""Report of a run as one HTML file: :func:`write_report`."""

from __future__ import annotations

from tfft.reporting.report import write_report

__all__ = ["write_report"]
