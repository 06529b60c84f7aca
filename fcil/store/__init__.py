"""The run folder: the one place where a run is written, and the only thing figures and tables read.

    <out>/<name>/<strategy>-<8 hex>/seed<k>/
        config.yaml     every setting, defaults written out     strategy.py   the strategy file that ran
        accuracy.csv    trained_task, tested_task, correct, examples, accuracy: the primary result
        rounds.jsonl    one line a round                         summary.json  metrics and cost; its existence
        partition.json  examples per task, client and class                    means that the run is finished
        env.json        versions, machine, commit                log.txt
        checkpoints/    synthetic/task<k>.safetensors and .png   figures/

`folder` names and writes the files, `recorder` fills them as events come, `read` gives them back.
"""

from fcil.store.folder import RunFolder, check_writable
from fcil.store.read import Run, find_runs, load, load_run
from fcil.store.recorder import RunRecorder
from fcil.store.weights import final_weights

__all__ = ["Run", "RunFolder", "RunRecorder", "check_writable", "final_weights", "find_runs", "load", "load_run"]
