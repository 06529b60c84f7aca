"""Keeps matplotlib's warnings off the terminal; imported before it, since it warns while it is imported.

A font that is not installed, or a home that cannot be written to, would be told for each word that is drawn, in
every process. What a user can mend of that is said once (`fcil.plots.look.style.remarks`).
"""

import logging

_LOGGER = logging.getLogger("matplotlib")
if _LOGGER.level == logging.NOTSET:  # who has set it wants to hear
    _LOGGER.setLevel(logging.ERROR)
