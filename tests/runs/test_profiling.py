"""Where the time of a run went: phases of samples, their sums, and the lines on what to change."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import LANDER, SETTINGS

from fcil.profiling import phases
from fcil.profiling.advice import MOST, SHARES, SHORT_STEP, advice
from fcil.profiling.flame import flame_page
from fcil.profiling.phases import (
    AGGREGATION,
    BACKWARD,
    BETWEEN,
    CHECKPOINTS,
    DATA,
    EVALUATION,
    EXCHANGE,
    FIGURES,
    GENERATOR,
    LOSS,
    MEANING,
    OPTIMIZER,
    POOL,
    RECORDS,
    START,
    STUDENT,
    frame_of,
    phase_of,
    stack_of,
)
from fcil.profiling.profile import Key, Profile, Spent
from fcil.profiling.tables import MOST_ROWS, clients, tasks, to_markdown, to_rich
from fcil.profiling.tables import phases as by_phase
from fcil.runs.plans import planned

ROOT = Path(__file__).parents[2]
TORCH = Path(torch.__file__).parent


# Phases -------------------------------------------------------------------------------------------

SERVER = "fcil/runs/play.py:execute_run fcil/federation/engine.py:run fcil/federation/server.py:run"
ROUND = (
    f"{SERVER} fcil/federation/server.py:_learn fcil/federation/server.py:_play fcil/federation/server.py:_aggregate"
)
TURN = (
    f"{ROUND} fcil/strategy.py:aggregate fcil/averaging.py:weighted_mean fcil/federation/server.py:_updates "
    "fcil/federation/exchange.py:answers fcil/federation/grids.py:_call fcil/federation/client.py:_trained"
)
TRAIN = f"{TURN} fcil/strategy.py:local_train fcil/roles.py:train"
END = f"{SERVER} fcil/federation/server.py:_end strategies/lander.py:after_task"
SYNTHESIS = f"{END} fcil/federation/synthesis/service.py:run fcil/federation/executor.py:step"
EPISODE = f"{SYNTHESIS} fcil/synthesis/nayer.py:episode"


def stack(text: str) -> tuple[phases.Frame, ...]:
    """Frames of this checkout, of torch, or of a file of a user's."""

    def frame(part: str) -> phases.Frame:
        path, function = part.split(":")
        home = TORCH.parent if path.startswith("torch/") else ROOT if path[0] != "/" else Path("/")
        return frame_of(f"Some.<locals>.{function}", str(home / path))

    return tuple(map(frame, text.split()))


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        (TRAIN, LOSS),
        (f"{TRAIN} strategies/lander.py:local_loss torch/nn/modules/module.py:_call_impl", LOSS),
        (f"{TRAIN} fcil/synthesis/common/losses.py:kl", LOSS),
        (f"{TRAIN} fcil/roles.py:passes fcil/data/scenario.py:batches torch/functional.py:pad", DATA),
        (f"{TRAIN} fcil/roles.py:draw fcil/synthesis/common/pool.py:view fcil/data/augment.py:crop", DATA),
        (f"{TRAIN} fcil/roles.py:_endless fcil/synthesis/common/pool.py:endless_rows", DATA),
        (f"{TRAIN} torch/_tensor.py:backward torch/autograd/__init__.py:backward", BACKWARD),
        (f"{TRAIN} torch/autograd/grad_mode.py:__enter__", LOSS),
        (f"{TRAIN} torch/optim/sgd.py:step", OPTIMIZER),
        (f"{TURN} /home/me/mine.py:local_train", LOSS),
        (f"{TURN} /home/me/mine.py:local_train torch/_tensor.py:backward", BACKWARD),
        (f"{TURN} /home/me/mine.py:local_train /home/me/mine.py:steps torch/optim/adam.py:step", OPTIMIZER),
        (f"{TURN} strategies/distill.py:local_train fcil/synthesis/nayer.py:episode", GENERATOR),
        (TURN, EXCHANGE),
        (f"{TURN} fcil/federation/client.py:_reply torch/_tensor.py:clone", EXCHANGE),
        (f"{TURN} fcil/federation/client.py:_client fcil/data/scenario.py:shard", DATA),
        (f"{TURN} fcil/federation/runtime/worker.py:playing", EXCHANGE),
        (f"{ROUND} fcil/strategy.py:aggregate fcil/federation/server.py:_updates", EXCHANGE),
        (f"{ROUND} fcil/strategy.py:aggregate fcil/averaging.py:weighted_mean torch/functional.py:add", AGGREGATION),
        (f"{ROUND} fcil/strategy.py:aggregate fcil/federation/protection/averager.py:average", AGGREGATION),
        (END, BETWEEN),
        (f"{END} torch/_tensor.py:backward", BETWEEN),
        (f"{SERVER} fcil/federation/evaluate.py:evaluate fcil/data/scenario.py:batches", EVALUATION),
        (f"{SERVER} fcil/federation/evaluate.py:evaluate strategies/icarl.py:predict", EVALUATION),
        (SYNTHESIS, GENERATOR),
        (f"{EPISODE} torch/_tensor.py:backward", GENERATOR),
        (f"{EPISODE} fcil/synthesis/common/student.py:train_student torch/optim/sgd.py:step", STUDENT),
        (f"{EPISODE} fcil/synthesis/families/with_student.py:teach fcil/synthesis/nayer.py:lesson", STUDENT),
        (f"{EPISODE} fcil/synthesis/families/with_student.py:teach fcil/synthesis/nayer.py:pool", POOL),
        (f"{SYNTHESIS} fcil/federation/executor.py:result fcil/synthesis/nayer.py:pool", POOL),
        (f"{SYNTHESIS} fcil/federation/synthesis/service.py:keep fcil/federation/checkpoint.py:keep", CHECKPOINTS),
        (f"{SYNTHESIS} fcil/federation/synthesis/service.py:tick fcil/console/progress.py:line", RECORDS),
        (f"{SERVER} fcil/federation/server.py:_save torch/functional.py:clone", CHECKPOINTS),
        (f"{SERVER} fcil/federation/observer.py:tell fcil/store/recorder.py:round_done", RECORDS),
        (f"{SERVER} fcil/federation/observer.py:tell fcil/runs/pictures.py:synthesis_done", FIGURES),
        ("fcil/runs/play.py:execute_run fcil/plots/run.py:draw_run", FIGURES),
        ("fcil/runs/play.py:execute fcil/runs/preflight.py:share_out fcil/data/datasets.py:load_dataset", START),
        (f"{SERVER} fcil/federation/server.py:_resume_or_start fcil/federation/context.py:first_server", START),
        ("/home/me/notebook.py:cell", START),
        ("", START),
    ],
)
def test_a_stack_tells_its_phase(text: str, phase: str) -> None:
    assert phase_of(stack(text))[0] == phase


def test_what_is_shown_of_a_stack_begins_where_its_phase_does() -> None:
    whole = stack(f"{TRAIN} fcil/roles.py:passes fcil/data/scenario.py:batches")
    _, depth = phase_of(whole)
    assert [(frame.place, frame.function) for frame in whole[depth:]] == [
        ("fcil/roles.py", "Some.train"),
        ("fcil/roles.py", "Some.passes"),
        ("fcil/data/scenario.py", "Some.batches"),
    ]


def test_a_stack_is_read_from_the_innermost_frame_outwards() -> None:
    def inner() -> tuple[phases.Frame, ...]:
        return stack_of(sys._getframe())

    *_, caller, innermost = inner()
    assert innermost.function == "test_a_stack_is_read_from_the_innermost_frame_outwards.inner"
    assert (caller.place, caller.function) == ("tests/runs/test_profiling.py", innermost.function.partition(".")[0])
    assert caller.line < innermost.line
    assert stack_of(None) == ()


def test_every_function_that_marks_a_phase_is_there() -> None:
    for beginning, functions, _ in phases._MARKS:
        home, part = (TORCH, beginning[len("lib/torch/") :]) if beginning.startswith("lib/") else (ROOT, beginning)
        files = [*(home / part).glob("**/*.py")] if part.endswith("/") else [home / part]
        assert files, beginning
        defined = {
            node.name
            for path in files
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
        assert functions <= defined, beginning


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (ROOT / "fcil/data/augment.py", "fcil/data/augment.py"),
        (ROOT / ".venv/lib/python3.11/site-packages/torch/optim/sgd.py", "lib/torch/optim/sgd.py"),
        (Path("/opt/v/lib/python3.11/site-packages/fcil/data/augment.py"), "fcil/data/augment.py"),
        (Path(re.__file__), "lib/re/__init__.py"),
        (Path("/home/me/secret/work/mine.py"), "work/mine.py"),
    ],
)
def test_a_place_names_no_folder_of_the_machine(path: Path, place: str) -> None:
    assert frame_of("Net.f", str(path), 7)[:3] == ("Net.f", place, 7)


# Sums ---------------------------------------------------------------------------------------------


def profile_of(shares: dict[str, float], seconds: float = 10.0) -> Profile:
    """A profile of so many seconds; of the clients' phases half is each client's, the rest is loss."""
    profile = Profile(tasks=2, rounds=[(1, 1), (1, 2)])
    for phase, share in ({LOSS: 1 - sum(shares.values())} | shares).items():
        who = (0, 1) if phase in phases.TRAINING else (None,)
        for client in who:
            part = share * seconds / len(who)
            profile.add(Key(0 if phase == START else 1, client, phase), Spent(part, 2 * part))
    return profile


def test_shares_of_phases_clients_and_tasks_are_those_of_the_whole() -> None:
    profile = profile_of({START: 0.2, BACKWARD: 0.3, EVALUATION: 0.1, FIGURES: 0.15})
    assert sum(map(profile.share, MEANING)) == pytest.approx(1)
    assert sum(spent.processor for spent in profile.by_phase().values()) == pytest.approx(10)
    assert sum(spent.wall for spent in profile.by_task().values()) == pytest.approx(20)
    assert {client: spent.processor for client, spent in profile.by_client().items()} == pytest.approx(
        {0: 2.75, 1: 2.75}
    )
    assert list(profile.by_phase()) == [START, LOSS, BACKWARD, EVALUATION, FIGURES]  # in the order of meanings
    assert profile.greatest(1) == BACKWARD


def test_steps_are_those_of_clients_that_told_them() -> None:
    profile = profile_of({BACKWARD: 0.5})
    assert profile.seconds_a_step() is None
    profile.steps[1] += 50
    assert profile.seconds_a_step() == pytest.approx(Spent(5 / 50, 10 / 50))
    rows = {row[0]: row[3:] for row in clients(profile).rows}
    assert rows == {"0": ("–", "–"), "1": ("50", "100.0")}


def test_tables_name_start_and_end_and_are_markdown_too() -> None:
    profile = profile_of({START: 0.5})
    profile.add(Key(3, None, FIGURES), Spent(1.0, 1.0))
    assert [row[0] for row in tasks(profile).rows] == ["start", "1", "end"]
    first, _, head, rule, *rows = to_markdown(by_phase(profile)).splitlines()
    assert first == "## Time by phase"
    assert rule == "|---|--:|--:|--:|---|"
    assert {line.count("|") for line in (head, rule, *rows)} == {6}
    assert rows[-1].startswith("| all | 11.00 | 100.0 % |")


def test_of_many_clients_the_slowest_are_printed() -> None:
    profile = Profile()
    for client in range(MOST_ROWS + 5):
        profile.add(Key(1, client, LOSS), Spent(client + 1.0, 1.0))
    table = to_rich(clients(profile))
    assert [*table.columns[0].cells][:2] == ["24", "23"]
    assert [*table.columns[1].cells][-1] == "5 more"


def test_an_empty_profile_has_no_shares() -> None:
    assert Profile().share(START) == 0
    assert Profile().total == (0, 0)


def test_no_name_of_a_file_ends_the_script_of_the_page() -> None:
    pytest.importorskip("pyinstrument", reason="of the extra `dev`")
    profile = Profile()
    profile.add(Key(1, None, LOSS), Spent(1.0, 1.0), (frame_of("f", "/home/x</script>.py"),))
    assert flame_page(profile, "tiny").count("</script>") == flame_page(profile_of({}), "tiny").count("</script>")


# What to change -----------------------------------------------------------------------------------


def said(shares: dict[str, float], cores: int = 1, steps: int = 0, **parts: Any) -> list[str]:
    settings = {key: {**SETTINGS[key], **parts.pop(key, {})} for key in ("data", "federation", "resources")}
    (plan,) = planned({**SETTINGS, **settings, **parts})
    profile = profile_of(shares)
    profile.steps[0] += steps
    return advice(profile, plan, cores)


MANY = {"rounds": 20}
CASES: list[tuple[str, float, dict[str, Any], str]] = [
    (EVALUATION, SHARES[EVALUATION], {"federation": MANY}, "federation.evaluate_every=5 (now 1)"),
    (EVALUATION, SHARES[EVALUATION], {}, "federation.evaluate_every=0 (now 1) tests at the end of a task alone"),
    (CHECKPOINTS, SHARES[CHECKPOINTS], {"federation": MANY}, "federation.checkpoint_every=5 (now 1)"),
    (RECORDS, SHARES[RECORDS], {"logger": "tensorboard"}, "logger=null (now tensorboard)"),
    (DATA, SHARES[DATA], {}, "data.augment=false leaves images as they are, and a greater federation.batch_size"),
    (DATA, SHARES[DATA], {"data": {"augment": False}}, "a greater federation.batch_size (now 16)"),
    (EXCHANGE, SHARES[EXCHANGE], {}, "a greater federation.local_epochs (now 1)"),
    (START, SHARES[START], {}, "put more seeds, or a matrix, into one file"),
    (FIGURES, SHARES[START], {}, "start and figures took"),
    (GENERATOR, SHARES[GENERATOR], {"strategy": LANDER}, "strategy.lander.synthesizer.nayer.steps (now 2)"),
    (STUDENT, SHARES[GENERATOR], {"strategy": LANDER}, "strategy.lander.synthesizer.nayer.student_steps (now 2)"),
    (POOL, SHARES[GENERATOR], {"strategy": LANDER}, "strategy.lander.synthesizer.nayer.samples (now 20)"),
]


@pytest.mark.parametrize(("phase", "share", "parts", "line"), CASES)
def test_a_rule_speaks_beyond_its_share_and_names_a_setting(
    phase: str, share: float, parts: dict[str, Any], line: str
) -> None:
    assert any(line in told for told in said({phase: share + 0.02}, **parts))
    assert not any(line in told for told in said({phase: share - 0.02}, **parts))


@pytest.mark.parametrize(
    ("phase", "parts"),
    [
        (EVALUATION, {"federation": {"evaluate_every": 0}}),
        (CHECKPOINTS, {"federation": {"checkpoint_every": 0}}),
        (RECORDS, {}),
        (GENERATOR, {}),  # a strategy without a synthesizer
    ],
)
def test_a_rule_is_silent_where_there_is_nothing_to_change(phase: str, parts: dict[str, Any]) -> None:
    assert said({phase: 0.45}, **parts) == [
        "nothing stands out: the clients' training took 55.0 %; a smaller net or a GPU would help"
    ]


def test_several_threads_are_too_many_for_short_steps() -> None:
    short, long = 2 * 5 / SHORT_STEP, 2 * 5 / SHORT_STEP / 4  # of a client's 5 processor and 10 clock seconds
    assert "resources.threads=1" in said({}, steps=int(short) + 10, resources={"threads": 4})[0]
    assert "threads" not in said({}, steps=int(long), resources={"threads": 4})[0]
    assert "threads" not in said({}, steps=int(short) + 10, resources={"threads": 1})[0]
    assert "threads" not in said({}, resources={"threads": 4})[0]  # nothing was told of steps


def test_clients_that_one_process_played_can_be_shared_out() -> None:
    assert "federation.backend=ray (now inprocess) trains 2 of them at once" in said({}, cores=8)[0]
    for cores, backend, share in ((1, "inprocess", 0.0), (8, "ray", 0.0), (8, "inprocess", 0.55)):
        lines = said({START: share}, cores, federation={"backend": backend})
        assert not any("backend" in line for line in lines)


def test_the_greatest_shares_are_told_first_and_no_more_than_a_few() -> None:
    shares = {EVALUATION: 0.15, START: 0.31, CHECKPOINTS: 0.12, DATA: 0.25}
    lines = said(shares, federation=MANY)
    assert [line.split(" took")[0] for line in lines] == ["start and figures", "data and augmentation", "evaluation"]
    assert len(lines) == MOST


def test_what_is_advised_is_an_override_that_there_is() -> None:
    told = [line for phase, share, parts, _ in CASES for line in said({phase: share + 0.02}, **parts)]
    told += said({}, cores=8) + said({}, steps=2000, resources={"threads": 4})
    overrides = {match for line in told for match in re.findall(r"[a-z][\w.]*=\w+", line)}
    assert len(overrides) >= 7
    for override in overrides:
        assert planned(SETTINGS, [override])
