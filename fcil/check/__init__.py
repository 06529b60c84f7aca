"""`fcil check`: checks of a strategy against the contract, in tiny federations of its own."""

from __future__ import annotations

from fcil.check.report import Report, Result
from fcil.check.verdict import CHECKS, check, find

__all__ = ["CHECKS", "Report", "Result", "check", "find"]
