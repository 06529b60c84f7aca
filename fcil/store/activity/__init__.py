"""Activity of the ingredients of a method in a run, and those that did nothing.

All of it follows from a run folder: loss terms, draws, failures and pools from `rounds.jsonl`, clients' data from
`partition.json`, what the method sets out to do from `config.yaml` and `env.json`. Runs of earlier versions, which
recorded less, give less.

    explain(run)   ->  {"activity": {"terms": {"ce": [1.0, 0.07], "kd": [None, 0.93]}, "samples": [640, 0], ...},
                        "inert": ["the loss term \\"kd\\" was 0 in every round after task 1 (strategy.keep is 0)"]}

Lists have an entry for each task; None where there is nothing to tell.
"""

from __future__ import annotations

from fcil.store.activity.collapse import collapsed
from fcil.store.activity.counted import activity
from fcil.store.activity.idle import unused_components
from fcil.store.activity.runs import explain, of_folder, unused_components_of

__all__ = ["activity", "collapsed", "explain", "of_folder", "unused_components", "unused_components_of"]
