#!/usr/bin/env bash
# Flower's FedAdam and FedAdagrad step BatchNorm's running variance as if it were a weight, to below zero.
#
# Flower's own examples send `ArrayRecord(model.state_dict())`, which holds BatchNorm's buffers. FedAvg and FedAvgM
# average them. FedAdam and FedAdagrad take a step of their own of about `eta` (default 0.1) for every array, and a
# running variance of a trained net is often below that: with two clients that both report a variance of 0.009 after
# one of 0.010, the server's becomes -0.040 in one round of FedAdagrad and in two of FedAdam. PyTorch loads it without
# a word, and the net answers NaN in eval mode, for all images. FedAdam also turns float32 arrays into float64: its rate
# is a NumPy scalar, which NumPy 2 no longer lets give way to the array; twice the bytes on the wire. The counter
# `num_batches_tracked`, an integer, comes back as a fraction from all of them.
#
# That such nets answer NaN was reported in 2022 (flwrlabs/flower, issue 1060); in 1.41 it is as it was.
#
# Seen with flwr 1.41.0 and NumPy 2.4.6 on Linux (2026-11). Fails if a variance stays positive, or types are kept.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "flwr==1.41.0" "numpy==2.4.6"
FLWR_TELEMETRY_ENABLED=0 FLWR_HOME="$folder" "$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import flwr
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # messages ask which run they belong to

START = {
    "conv.weight": np.full(3, 0.5, np.float32),
    "bn.running_var": np.full(3, 0.010, np.float32),
    "bn.num_batches_tracked": np.array(10),
}


def record(arrays):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})


def reply(node, arrays):
    asked = Message(RecordDict({"arrays": record(START)}), dst_node_id=node, message_type="train")
    return Message(RecordDict({"arrays": record(arrays), "metrics": MetricRecord({"num-examples": 10})}), reply_to=asked)


def play(kind, rounds):
    """Two clients whose variance is nine tenths of the one they were sent, or of the first where that is no variance."""
    strategy, now, seen = kind(), START, []
    for number in range(1, rounds + 1):
        strategy.current_arrays = record(now) if kind is FedAvgM else now
        theirs = now | {
            "conv.weight": now["conv.weight"] - np.float32(0.01),
            "bn.running_var": np.float32(0.9) * np.abs(now["bn.running_var"]).astype(np.float32),
            "bn.num_batches_tracked": np.array(10 + number),
        }
        result, _ = strategy.aggregate_train(number, [reply(1, theirs), reply(2, theirs)])
        now = {name: array.numpy() for name, array in result.items()}
        seen.append(float(now["bn.running_var"].min()))
    return seen, {name: str(value.dtype) for name, value in now.items()}


print(f"flwr {flwr.__version__}, NumPy {np.__version__}")
for kind, lowest, dtype in ((FedAvgM, 0.007, "float32"), (FedAdagrad, None, "float32"), (FedAdam, None, "float64")):
    seen, types = play(kind, 3)
    scales = [round(float(1 / np.sqrt(np.float64(v) + 1e-5)), 1) for v in seen]  # BatchNorm in eval mode
    print(f"{kind.__name__}: running variance {[round(v, 4) for v in seen]}, factor of the images' maps {scales}, "
          f"weights {types['conv.weight']}, counter {types['bn.num_batches_tracked']}")
    assert types["conv.weight"] == dtype, types
    assert types["bn.num_batches_tracked"] == "float64", types
    assert min(seen) > lowest if lowest else min(seen) < 0 and np.isnan(scales).any(), seen
PYTHON
echo "as described: the variance is below zero after three rounds of FedAdam and FedAdagrad, and not of FedAvgM"
