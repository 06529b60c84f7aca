"""Phases of a run, each told by the functions that were at work when a sample was taken."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

START = "start"
DATA = "data and augmentation"
LOSS = "forward and loss"
BACKWARD = "backward"
OPTIMIZER = "optimizer"
EXCHANGE = "exchange and checks"
AGGREGATION = "aggregation"
BETWEEN = "strategy between tasks"
EVALUATION = "evaluation"
GENERATOR = "synthesis: generator"
STUDENT = "synthesis: student"
POOL = "synthesis: pool"
CHECKPOINTS = "checkpoints"
RECORDS = "records and display"
FIGURES = "figures"
OTHER = "other"

MEANING = {
    START: "imports, settings, data sets, the first net",
    DATA: "batches of the clients, cut and augmented",
    LOSS: "the rest of the strategy's work on clients",
    BACKWARD: "gradients of the clients",
    OPTIMIZER: "steps of the clients",
    EXCHANGE: "messages, audits, failures, who is drawn",
    AGGREGATION: "the strategy's work on the server in a round",
    BETWEEN: "the strategy's work on the server before and after a task",
    EVALUATION: "the global net on the test examples",
    GENERATOR: "generator, or samples, with the teacher",
    STUDENT: "a student that the synthesizer teaches",
    POOL: "synthetic samples drawn and stored",
    CHECKPOINTS: "saved, and read when a run goes on",
    RECORDS: "files of the run, loggers, terminal",
    FIGURES: "figures and pictures of samples",
    OTHER: "no sample tells",
}
"""Every phase, in the order of tables, with what it holds."""
TRAINING = (DATA, LOSS, BACKWARD, OPTIMIZER)
"""Phases of the clients' training."""
SYNTHESIS = (GENERATOR, STUDENT, POOL)
"""Phases of synthesis, on the server or on a client."""

# Marks of functions that are no phases: what runs below them decides.
_CLIENT = "a client's turn"
_TRAIN = "steps"
_NONE = ""  # whoever called it decides

_MARKS: tuple[tuple[str, frozenset[str], str], ...] = tuple(
    (beginning, frozenset(functions.split()), mark)
    for beginning, functions, mark in (
        # Files, the functions of them that are meant (all if none is named), and what they mark; the first one holds.
        ("lib/torch/autograd/", "backward grad _engine_run_backward", BACKWARD),
        ("lib/torch/_tensor.py", "backward", BACKWARD),
        ("lib/torch/optim/", "", OPTIMIZER),
        ("fcil/optimizer.py", "total_loss add finish _backward", _NONE),
        ("fcil/optimizer.py", "", OPTIMIZER),
        ("fcil/data/", "", DATA),
        ("fcil/roles.py", "batches passes draw _endless kept keep", DATA),
        ("fcil/roles.py", "train", _TRAIN),
        ("fcil/synthesis/", "teach _teach_both _teach_head train_student", STUDENT),
        ("fcil/synthesis/", "pool drawn buckets views views_of", POOL),
        ("fcil/synthesis/common/base.py", "", GENERATOR),
        ("fcil/synthesis/common/", "", _NONE),  # strategies take losses and views from there too
        ("fcil/synthesis/", "", GENERATOR),
        ("fcil/federation/executor.py", "result", POOL),
        ("fcil/federation/executor.py", "", GENERATOR),
        ("fcil/federation/synthesis/", "", GENERATOR),
        ("fcil/federation/client.py", "_trained _after_task", _CLIENT),
        ("fcil/federation/evaluate.py", "", EVALUATION),
        ("fcil/federation/checkpoint.py", "", CHECKPOINTS),
        ("fcil/federation/persistence/", "", CHECKPOINTS),
        ("fcil/federation/server.py", "_save", CHECKPOINTS),
        ("fcil/federation/server.py", "_aggregate", AGGREGATION),
        ("fcil/federation/server.py", "_begin _end", BETWEEN),
        ("fcil/federation/server.py", "run __post_init__ _resume_or_start", START),
        ("fcil/federation/engine.py", "", START),
        ("fcil/federation/protection/client_mods.py", "", EXCHANGE),
        ("fcil/federation/protection/malicious.py", "", EXCHANGE),
        ("fcil/federation/protection/", "", _NONE),
        *((f"fcil/federation/{name}.py", "", _NONE) for name in ("context", "plan", "settings", "preconditions")),
        ("fcil/federation/", "", EXCHANGE),
        ("fcil/plots/", "", FIGURES),
        ("fcil/runs/pictures.py", "", FIGURES),
        ("fcil/runs/loggers.py", "", RECORDS),
        ("fcil/store/", "", RECORDS),
        ("fcil/console/", "", RECORDS),
        ("fcil/runs/", "", START),
        ("fcil/distillation/", "", START),
        ("fcil/experiment.py", "", START),
    )
)
_DETAILS = (DATA, BACKWARD, OPTIMIZER)

_HOME = Path(__file__).parents[2].as_posix() + "/"
_LIBRARY = Path(sysconfig.get_paths()["stdlib"]).as_posix() + "/"


class Frame(NamedTuple):
    """A function that was at work."""

    function: str
    place: str
    """Its file: `fcil/...` and `strategies/...` here, `lib/...` of a library, of any other the last two parts."""
    line: int
    """Where it begins."""
    mark: str = _NONE


def frame_of(name: str, path: str, line: int = 0) -> Frame:
    """Return the frame of a function.

    Args:
        name: qualified, such as `Client.train`.
        path: of its file.
    """
    shown, place = name.replace("<locals>.", ""), _place(path)
    return Frame(shown, place, line, _mark(place, shown.rpartition(".")[2]))


_known: dict[int, tuple[CodeType, Frame]] = {}  # by identity: the hash of a code object costs more than all the rest


def stack_of(frame: FrameType | None) -> tuple[Frame, ...]:
    """Return the frames of a stack, the outermost first, given the innermost one."""
    frames: list[Frame] = []
    while frame is not None:
        code = frame.f_code
        known = _known.get(id(code))
        if known is None:
            known = code, frame_of(code.co_qualname, code.co_filename, code.co_firstlineno)
            _known[id(code)] = known  # which keeps the code object, and so its identity
        frames.append(known[1])
        frame = frame.f_back
    return tuple(reversed(frames))


def _place(path: str) -> str:
    _, installed, rest = path.rpartition("/site-packages/")
    if installed and not rest.startswith(("fcil/", "strategies/")):
        return f"lib/{rest}"
    if installed or path.startswith(_HOME):
        return rest.removeprefix(_HOME)
    if path.startswith(_LIBRARY):
        return f"lib/{path.removeprefix(_LIBRARY)}"
    return "/".join(path.split("/")[-2:]) if path.startswith("/") else path


def _mark(place: str, function: str) -> str:
    marks = (mark for start, names, mark in _MARKS if place.startswith(start) and (not names or function in names))
    return next(marks, _NONE)


def phase_of(stack: Sequence[Frame]) -> tuple[str, int]:
    """Return the phase of a stack, outermost frame first, and the depth of the frame from which on it is shown.

    The innermost marked frame decides: a client's training lies within the aggregation that asks for its update.
    Data, gradients and optimizer are phases of the clients; elsewhere they belong to what called them.
    """
    detail = synthesis = ""
    top = 0
    for depth in range(len(stack) - 1, -1, -1):
        mark = stack[depth].mark
        if not mark:
            continue
        if mark in _DETAILS:
            detail = detail or mark
        elif mark in SYNTHESIS:
            synthesis, top = (mark if synthesis in ("", GENERATOR) else synthesis), depth
        elif synthesis:
            return synthesis, top
        elif mark == _TRAIN:
            return detail or LOSS, depth
        elif mark == _CLIENT:
            called = stack[depth + 1].place if depth + 1 < len(stack) else ""
            verb = bool(called) and not called.startswith(("fcil/federation/", "lib/", "<"))  # of the strategy
            return (detail or LOSS, depth + 1) if verb else (EXCHANGE, depth)
        else:
            return (DATA if (mark, detail) == (EXCHANGE, DATA) else mark), depth
    return synthesis or START, top
