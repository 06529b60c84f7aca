"""What Flower's own code says while it runs, kept from the console.

Flower's mods and strategies report through its logger. On a worker nobody reads that, and in this
process it would be written across the progress view.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Collect what Flower logs within the block, and show it to nobody else."""
    lines: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return False

    logger = logging.getLogger("flwr")
    logger.addFilter(keep)
    try:
        yield lines
    finally:
        logger.removeFilter(keep)
