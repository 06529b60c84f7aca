"""`fcil search`: settings tried on held-out training samples, and the best of them played once on the test samples.

A trial is an ordinary run with `data.validation`, in `NAME-search/`; the winner's runs, without it, are in `NAME/`.
`settings` and `space` read the section `search` of a file, `samplers` and `tpe` say what is tried next, `trials` plays
it, `play` goes from the file to the winner, `beforehand` lists what it would try, and `record` is what the
others read of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcil.searching.beforehand import Forecast, forecast
    from fcil.searching.plans import introduction
    from fcil.searching.play import SearchResult, search

__all__ = ["Forecast", "SearchResult", "forecast", "introduction", "search"]

_HOMES = {
    "Forecast": "fcil.searching.beforehand",
    "SearchResult": "fcil.searching.play",
    "forecast": "fcil.searching.beforehand",
    "introduction": "fcil.searching.plans",
    "search": "fcil.searching.play",
}


def __getattr__(name: str) -> Any:
    """Load a part when it is first asked for: readers of records need not wait for what plays runs."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fcil.searching' has no attribute {name!r}")
