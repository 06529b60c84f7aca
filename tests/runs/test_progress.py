from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType
from run_folders import make_config, make_record, make_rows, make_run, make_tasks

from fcil.console import progress
from fcil.console.eta import Pace, TimeLeft, seconds_for_all
from fcil.console.progress import LiveProgress, PlainProgress, Progress, choose_progress, loading_bar
from fcil.console.tables import accuracy_table, duration, metrics_table, partition_table, settings_tree, size
from fcil.store import load_run


class Time:
    """A clock that moves when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(*, terminal: bool = False, width: int = 100) -> Console:
    file = Terminal() if terminal else io.StringIO()
    return Console(
        file=file, width=width, force_terminal=terminal, color_system=None, legacy_windows=False, _environ={}
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def text_of(renderable: RenderableType, width: int = 120) -> str:
    console = screen(width=width)
    console.print(renderable)
    return shown(console)


def play(view: Progress, clock: Time, tasks: int = 2, rounds: int = 2, round_seconds: float = 10.0) -> None:
    with view:
        view.run_started(tasks=tasks, rounds=rounds, clients=2, finished_rounds=0)
        for task in make_tasks(tasks):
            view.task_started(task)
            for number in range(1, rounds + 1):
                view.round_started(task.number, number, [0, 1])
                for client in (0, 1):
                    clock.now += round_seconds / 2
                    view.client_done(task.number, number, client, {"terms/ce": 1.0, "terms/kd": 0.25, "examples": 9.0})
                view.round_done(make_record(task.number, number))
            for episode in (1, 2):
                clock.now += 5
                view.synthesis_progress(task.number, episode, 2, {"bn": 2.0})
            view.task_done(task, make_rows("lander", 0, task.number))
        view.run_done(60.0, {})


# Time left ----------------------------------------------------------------------------------------


def test_the_time_left_is_unknown_before_the_first_round_is_over() -> None:
    left = TimeLeft(2, 3, clock=Time())
    left.round_started()
    assert left.seconds() is None


def test_rounds_of_the_first_task_and_of_later_tasks_are_averaged_apart() -> None:
    clock = Time()
    left = TimeLeft(3, 2, clock=clock)
    for seconds in (10, 20):
        left.round_started()
        clock.now += seconds
        left.round_done()
    left.task_done()
    assert left.seconds() == 4 * 15  # nothing is known of later tasks yet
    left.round_started()
    clock.now += 40
    left.round_done()
    assert left.seconds() == 3 * 40


def test_the_end_of_a_task_is_counted_for_every_task_but_the_last() -> None:
    clock = Time()
    left = TimeLeft(3, 1, clock=clock)
    left.round_started()
    clock.now += 10
    left.round_done()
    clock.now += 100
    left.task_done()
    assert left.seconds() == 2 * 10 + 1 * 100


def test_the_forecast_counts_down_within_a_round_and_never_below_zero() -> None:
    clock = Time()
    left = TimeLeft(1, 2, clock=clock)
    left.round_started()
    clock.now += 10
    left.round_done()
    left.task_done()
    left.round_started()
    clock.now += 4
    assert left.seconds() == 6
    clock.now += 100
    assert left.seconds() == 0


def test_synthesis_is_forecast_from_its_own_episodes() -> None:
    clock = Time()
    left = TimeLeft(3, 1, clock=clock)
    left.round_started()
    clock.now += 10
    left.round_done()
    clock.now += 4
    left.episode_done(2, 10)
    assert left.seconds() == 16 + 2 * 10 + 20  # the rest of this synthesis, two rounds, another synthesis


def test_a_resumed_run_counts_what_is_left_alone() -> None:
    clock = Time()
    left = TimeLeft(2, 4, finished_rounds=6, clock=clock)
    left.round_started()
    clock.now += 10
    left.round_done()
    assert left.seconds() == 10


# Plain lines --------------------------------------------------------------------------------------


def test_plain_lines_tell_task_round_loss_accuracy_and_time_left() -> None:
    clock, console = Time(), screen()
    play(PlainProgress(console, clock), clock)
    lines = shown(console).splitlines()
    assert lines[0] == "[TASK 1/2] [ROUND 1/2] loss 1.22 · accuracy 0.5 · 30 s left"
    assert lines[2] == "[TASK 1/2] [SYNTHESIS 1/2] bn 2 · 25 s left"
    assert lines[4] == "[TASK 1/2] done: accuracy 86.0 % (by task: 86.0), 30 s"
    assert lines[5].startswith("[TASK 2/2] [ROUND 1/2] loss 1.83 (ce 1.22, kd 0.45, bounding 0.16) · accuracy 0.")
    assert lines[-1] == "done in 1 min 00 s"


def test_plain_lines_are_two_seconds_apart_but_for_the_ends_of_tasks() -> None:
    clock, console = Time(), screen()
    play(PlainProgress(console, clock), clock, tasks=2, rounds=40, round_seconds=0.25)
    lines = shown(console).splitlines()
    assert 10 <= sum("[ROUND" in line for line in lines) <= 12  # 20 seconds of rounds
    assert sum("done: accuracy" in line for line in lines) == 2


def test_brackets_in_a_note_are_shown_as_they_are() -> None:
    console = screen(width=30)
    PlainProgress(console).note("[red]client 3[/red] " + "x" * 40)
    assert shown(console) == "[red]client 3[/red] " + "x" * 40 + "\n"


# Live bars ----------------------------------------------------------------------------------------


def test_live_bars_show_where_the_run_stands() -> None:
    clock = Time()
    view = LiveProgress(screen(terminal=True), clock)
    view.tasks, view.rounds, view.left = 3, 4, TimeLeft(3, 4, clock=clock)
    view.task_started(make_tasks(3)[0])
    view.round_started(1, 1, [4, 7])
    view.client_done(1, 1, 4, {"terms/ce": 1.0, "terms/kd": 0.25})
    clock.now += 10
    seen = text_of(view)
    assert "task 1/3 · round 1/4 · client 1/2" in seen
    assert "loss 1.25 (ce 1, kd 0.25)" in seen
    assert "0/12 rounds" in seen
    view.round_done(make_record(1, 1))
    assert "1/12 rounds  1 min 50 s left" in text_of(view)
    assert "accuracy 50.0 %" in text_of(view)
    view.synthesis_progress(1, 3, 8, {})
    assert "task 1/3 · synthesis" in text_of(view)
    assert "3/8 episodes" in text_of(view)


def test_live_bars_leave_a_line_for_each_task_and_the_cursor_visible() -> None:
    clock, console = Time(), screen(terminal=True)
    play(LiveProgress(console, clock), clock)
    assert "[TASK 1/2] done: accuracy 86.0 %" in shown(console)
    assert "[TASK 2/2] done: accuracy 87.5 % (by task: 83.0, 92.0)" in shown(console)
    assert shown(console).rfind("\x1b[?25h") > shown(console).rfind("\x1b[?25l") >= 0


def test_live_bars_give_the_terminal_back_after_an_error() -> None:
    console = screen(terminal=True)

    def fail() -> None:
        with LiveProgress(console) as view:
            view.run_started(tasks=1, rounds=1, clients=1, finished_rounds=0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert shown(console).rfind("\x1b[?25h") > shown(console).rfind("\x1b[?25l") >= 0


def test_bars_are_for_terminals_alone() -> None:
    assert isinstance(choose_progress(screen(terminal=True)), LiveProgress)
    assert isinstance(choose_progress(screen()), PlainProgress)
    forced = Console(file=io.StringIO(), force_terminal=True)  # what FORCE_COLOR does in a log
    assert isinstance(choose_progress(forced), PlainProgress)


def test_loading_is_shown_on_a_terminal_and_gone_afterwards() -> None:
    console = screen(terminal=True)
    with loading_bar(console) as show:
        show("decoding [train]", 3, 10)
        show("decoding [train]", 10, 10)
    assert "decoding [train]" in shown(console)
    assert "10/10" in shown(console)


def test_quick_loading_says_nothing_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    console = screen()
    with loading_bar(console) as show:
        show("decoding", 10, 10)
    assert shown(console) == ""
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    with loading_bar(console) as show:
        show("decoding", 10, 20)
    assert shown(console) == "decoding: 10/20\n"


def test_a_download_is_told_in_bytes_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    console = screen(terminal=True)
    with loading_bar(console, of_bytes=True) as show:
        show("set.zip", 2_000_000, 4_000_000)
    assert "2.0/4.0 MB" in shown(console)
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    console, clock = screen(), iter([0.0, 0.0, 10.0])
    show = progress._plain_loading(console, progress.size, clock=lambda: next(clock))
    show("set.zip", 1_000_000, 4_000_000)
    show("set.zip", 2_000_000, 4_000_000)
    assert shown(console) == "set.zip: 1 MB/4 MB\nset.zip: 2 MB/4 MB, 20 s left\n"


# Tables -------------------------------------------------------------------------------------------


def test_the_settings_tree_holds_every_value() -> None:
    config = make_config("lander", 0, radius=0.015, synthesizer={"nayer": {"rounds": 40, "lr": 2e-3, "root": None}})
    lines = text_of(settings_tree(config)).splitlines()
    assert lines[0].startswith("toy  seed 0")
    assert "├── data  dataset blobs · tasks 3 · order natural · partition dirichlet 0.5" in lines
    assert "├── strategy lander  radius 0.015" in lines
    assert "│   └── synthesizer nayer  rounds 40 · lr 0.002 · root null" in lines
    assert lines[-1] == "└── resources  device cpu · threads 1"


def test_the_partition_table_counts_examples_and_classes() -> None:
    counts = np.array([[[6, 0, 0, 0], [2, 3, 0, 0]], [[0, 0, 0, 1], [0, 0, 9, 0]]])
    words = [line.split() for line in text_of(partition_table(counts, ["a", "b", "c", "d"])).splitlines()]
    assert ["1", "all", "11", "2", "a,", "b"] in words
    assert ["0", "6", "1", "█·"] in words
    assert ["1", "5", "2", "▃▄"] in words
    assert ["2", "all", "10", "2", "c,", "d"] in words
    assert ["1", "9", "1", "█·"] in words


def test_many_clients_are_summed_up() -> None:
    counts = np.arange(50).reshape(1, 50, 1)
    table = text_of(partition_table(counts, ["a"]))
    assert "10 to 49" in table
    assert "40 more clients" in table


def test_the_accuracy_table_is_the_matrix_in_percent() -> None:
    rows = [(1, 1, 90, 100), (2, 1, 50, 100), (2, 2, 240, 300)]
    words = [line.split() for line in text_of(accuracy_table(rows)).splitlines()]
    assert ["1", "90.0", "90.0"] in words
    assert ["2", "72.5", "50.0", "80.0"] in words  # (50 + 240) / 400


def test_the_metrics_table_names_every_definition(tmp_path: Path) -> None:
    summary = load_run(make_run(tmp_path).path).summary
    table = text_of(metrics_table(summary))
    for name in ("final accuracy", "average incremental accuracy", "bwt", "plasticity", "stability"):
        assert name in table
    for name, value in summary["forgetting"].items():
        assert f"forgetting {name}" in table
        assert f"{100 * value:.1f} pts" in table
    assert "1 min 00 s" in table
    assert "48 kB" in table


def test_metrics_that_one_task_does_not_define_are_said_to_be_none(tmp_path: Path) -> None:
    lines = text_of(metrics_table(load_run(make_run(tmp_path, tasks=1).path).summary)).splitlines()
    assert [line.split()[1] for line in lines if line.strip().startswith("bwt")] == ["n/a"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7799, "2 h 10 min")]
)
def test_durations_are_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_sizes_are_in_words() -> None:
    assert [size(n) for n in (12, 48_000, 2.5e9, 3e15)] == ["12 B", "48 kB", "2.5 GB", "3e+03 TB"]


# Several runs ----------------------------------------------------------------------------------


def test_the_pace_of_a_run_is_known_when_a_round_was_seen_to_end() -> None:
    now = [100.0]
    pace = Pace(10, clock=lambda: now[0])
    assert pace.seconds() is None
    pace.reached(4)  # it was resumed
    assert pace.seconds() is None
    now[0] = 106.0
    pace.reached(6)
    assert (pace.seconds_per_round(), pace.seconds()) == (3.0, 12.0)
    now[0] = 107.0
    assert pace.seconds() == 11.0
    pace.reached(5)  # a look that came late changes nothing
    assert pace.seconds() == 11.0
    pace.reached(2)  # another process goes on from the checkpoint
    assert pace.seconds() is None
    now[0] = 200.0
    pace.reached(3)
    now[0] = 10_000.0
    assert pace.seconds() == 0.0  # late, but never before now


@pytest.mark.parametrize(
    ("playing", "waiting", "at_once", "seconds"),
    [
        ([], [], 2, 0.0),
        ([5.0], [], 4, 5.0),
        ([5.0, 3.0], [10.0], 2, 13.0),
        ([5.0, 3.0], [1.0, 1.0, 1.0], 2, 6.0),
        ([], [4.0, 4.0, 4.0], 1, 12.0),
        ([], [4.0, 4.0, 4.0], 3, 4.0),
    ],
)
def test_all_are_done_when_the_last_place_is_free(
    playing: list[float], waiting: list[float], at_once: int, seconds: float
) -> None:
    assert seconds_for_all(playing, waiting, at_once) == seconds
