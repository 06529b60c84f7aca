"""The run folder: the one place where a run is written, and the only thing figures and tables read.

    <out>/<name>/<strategy>-<8 hex>/seed<k>/
        config.yaml     every setting, defaults written out     strategy.py   the strategy file that ran
        parts/          other files of one's own that ran: of a net, a data set, a partition, synthesizers
        accuracy.csv    trained_task, tested_task, correct, examples, accuracy: the primary result
        task_aware.csv  the same where the task of each sample is given
        classes.csv  confusion.csv  quality.csv                 the same below the task, at the end of each
        net.safetensors  net/task<k>.safetensors                the trained net, as `resources.keep` says
        rounds.jsonl    one line a round                         summary.json  metrics and cost; its existence
        partition.json  examples per task, client and class                    means that the run is finished
        env.json        versions, machine, code, digests of      log.txt
                        what is read
        checkpoints/    synthetic/task<k>.safetensors and .png (task<k>-round<r>: some, as they were then)
        figures/        drawn.json    which of them were drawn of this record
        profile.md      profile.html  where the time went, if it was asked for
        search.json     how the settings were chosen, if a search chose them

`folder` names and writes the files, `recorder` fills them as events come, `read` gives them back.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fcil.store.folder import RunFolder, check_writable
from fcil.store.read import Run, find_runs, load_run

if TYPE_CHECKING:
    from fcil.store.frame import load
    from fcil.store.recorder import RunRecorder
    from fcil.store.weights import final_weights

_LATER = {
    "RunRecorder": "fcil.store.recorder",
    "final_weights": "fcil.store.weights",
    "load": "fcil.store.frame",
}
"""Names that need torch or pandas, imported when first used: readers of folders need not wait for them."""

__all__ = ["Run", "RunFolder", "RunRecorder", "check_writable", "final_weights", "find_runs", "load", "load_run"]


def __getattr__(name: str) -> Any:
    """Load a part when it is first asked for."""
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'fcil.store' has no attribute {name!r}")
