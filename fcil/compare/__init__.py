"""`fcil compare`: strategies beside each other over seeds and splits, with what may be concluded from it."""

from __future__ import annotations

from fcil.compare.comparison import METRICS, Comparison, Entry, Split, compare
from fcil.compare.write import check_columns, to_json, write

__all__ = ["METRICS", "Comparison", "Entry", "Split", "check_columns", "compare", "to_json", "write"]
