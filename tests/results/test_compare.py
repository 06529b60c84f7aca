"""`fcil compare`: who is grouped, what is said of it, and what is not."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Command, assert_refused
from rich.console import Console
from run_folders import make_config, make_results, make_run
from scipy import stats

from fcil import metrics
from fcil.compare import METRICS, compare, to_json, write
from fcil.compare.statistics import FEWEST, friedman, holm, interval, least_p, pairs, spread, surely_better
from fcil.compare.terminal import tables
from fcil.compare.write import latex, latex_details, long_csv, markdown
from fcil.console.tables import metrics_table
from fcil.metrics import FORGETTING
from fcil.store import RunFolder, find_runs

KEEPS_IMAGES = {"method": {"uses": ["exemplars"]}}
KEEPS_ALL = {"method": {"data": "seen"}}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("run_folders.RunRecorder.synthesis_done", lambda self, task, samples: None)


def compared(folder: Path) -> Any:
    return compare(find_runs([folder]))


def tell(folder: RunFolder, more: dict[str, Any]) -> None:
    """Add what a run of today tells of its method to `env.json`."""
    folder.env.write_text(json.dumps({**json.loads(folder.env.read_text()), **more}))


def printed(thing: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


# Statistics ---------------------------------------------------------------------------------------


def test_a_spread_is_mean_sample_deviation_and_an_interval_around_them():
    found = spread([50.0, 60.0, 70.0])
    assert (found.mean, found.std, found.n) == (60.0, 10.0, 3)
    assert 50.0 <= found.low < 60.0 < found.high <= 70.0
    assert spread([]) is None
    one = spread([42.0])
    assert (one.mean, one.std, one.low, one.high) == (42.0, None, None, None)


def test_the_interval_is_the_percentile_bootstrap_and_always_the_same():
    values = [51.0, 47.5, 60.1, 39.9, 55.5, 44.0, 58.0]
    ours = interval(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.3)
    assert ours == interval(values)


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_pairs_are_tested_over_the_seeds_they_share():
    a = {s: 50.0 + s for s in range(6)}
    b = {s: 40.0 + 2 * s for s in range(1, 8)}
    (found,) = pairs({"a": a, "b": b})
    assert found.n == 5
    assert found.difference == pytest.approx(np.mean([10 - s for s in range(1, 6)]))
    assert found.p == pytest.approx(0.0625)  # five differences of one sign: 2 / 2^5, no fewer
    assert found.p == pytest.approx(least_p(5))
    assert pairs({"a": a, "c": {9: 1.0}}) == []
    assert pairs({"a": a, "same": a})[0].p == 1.0


def test_better_beyond_doubt_needs_seeds_and_differences_of_one_side():
    low, high = {s: 40.0 + s for s in range(FEWEST)}, {s: 60.0 + s for s in range(FEWEST)}
    assert surely_better(high, low)
    assert not surely_better(low, high)
    assert not surely_better(dict(list(high.items())[:-1]), low)  # one seed too few
    mixed = {s: v + (25 if s % 2 else -25) for s, v in low.items()}
    assert not surely_better(mixed, low)


def test_friedmans_ranks_are_scipys_and_need_three_strategies_and_two_splits():
    blocks = [{"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 6.0, "b": 4.0, "c": 5.0}, {"a": 9.0, "b": 8.0, "c": 7.0}]
    found = friedman(blocks)
    assert found.ranks == pytest.approx({"a": 1.0, "b": 7 / 3, "c": 8 / 3})
    table = np.array([list(block.values()) for block in blocks])
    assert found.p == pytest.approx(stats.friedmanchisquare(*table.T).pvalue)
    assert friedman(blocks[:1]) is None
    assert friedman([{"a": 1.0, "b": 2.0}] * 3) is None
    assert friedman([{"a": 1.0, "b": 1.0, "c": 1.0}] * 2).p == 1.0


# Tables -------------------------------------------------------------------------------------------


def test_strategies_are_grouped_over_seeds_and_put_in_order(tmp_path: Path) -> None:
    make_results(tmp_path, seeds=(0, 1, 2))
    (split,) = compared(tmp_path).splits
    assert split.label == "blobs, 3 tasks, dirichlet 0.5"
    assert [entry.label for entry in split.entries] == ["lander", "finetune"]
    runs = [run for run in find_runs([tmp_path]) if run.strategy == "lander"]
    found = split.entries[0].spreads
    assert found["final_accuracy"].mean == pytest.approx(100 * np.mean([r.summary["final_accuracy"] for r in runs]))
    assert found["forgetting"].mean == pytest.approx(100 * np.mean([r.summary["forgetting"]["chaudhry"] for r in runs]))
    assert found["seconds"].mean == pytest.approx(61.0)
    assert {name for name in METRICS if name.startswith("forgetting")} == {
        "forgetting", "forgetting_chaudhry_including_last", "forgetting_first", "forgetting_first_over_T",
        "forgetting_lander", "forgetting_libcontinual",
    }  # fmt: skip


def test_few_seeds_make_nobody_the_best_and_it_is_said(tmp_path: Path) -> None:
    make_results(tmp_path, seeds=range(FEWEST - 1))
    few = compared(tmp_path)
    assert few.splits[0].best("final_accuracy") is None
    assert "**" not in markdown(few)
    assert any("below 5 nothing is called the best" in line for line in few.warnings)
    make_results(tmp_path, seeds=range(FEWEST))
    enough = compared(tmp_path)
    assert enough.splits[0].best("final_accuracy").label == "lander"
    assert enough.splits[0].best("forgetting").label == "lander"
    assert markdown(enough).count("**") == 6  # three numbers of one line
    assert latex(enough).count("\\mathbf") == 3
    assert enough.warnings == []


def test_an_upper_bound_is_no_rival_and_what_is_kept_is_said(tmp_path: Path) -> None:
    for number, (strategy, declared) in enumerate([("finetune", {}), ("lander", KEEPS_IMAGES), ("mine", KEEPS_ALL)]):
        for seed in range(FEWEST):
            tell(make_run(tmp_path, strategy, seed, variant=f"{number:08x}"), declared)
    (split,) = compared(tmp_path).splits
    assert {e.label: e.keeps for e in split.entries} == {"finetune": "", "lander": "images", "mine": "all data"}
    assert split.best("final_accuracy").label == "lander"
    assert {label for pair in split.tests for label in (pair.a, pair.b)} == {"finetune", "lander"}


def test_of_runs_that_declare_nothing_the_records_tell(tmp_path: Path) -> None:
    old = {name: make_run(tmp_path, name, variant=f"{i:08x}") for i, name in enumerate(["joint", "icarl", "lander"])}
    summary = json.loads(old["icarl"].summary.read_text())
    old["icarl"].summary.write_text(json.dumps({**summary, "activity": {"exemplars": [20, 20, 0]}}))
    (split,) = compared(tmp_path).splits
    assert {e.label: e.keeps for e in split.entries} == {"joint": "all data", "icarl": "images", "lander": ""}
    tell(old["icarl"], {"method": ["no mapping"], "inputs": [], "resumed": [{"method": {"uses": "exemplars"}}]})
    assert {e.label: e.keeps for e in compared(tmp_path).splits[0].entries}["icarl"] == "images"


def test_anchors_count_where_they_were_read(tmp_path: Path) -> None:
    for number, (name, digest) in enumerate([("finetune", None), ("lander", "a"), ("target", "a"), ("mfcl", "a")]):
        folder = make_run(tmp_path, name, variant=f"{number:08x}")
        config = make_config(name, 0) | {"anchors": {"encoder": "other" if name in ("finetune", "mfcl") else "clip"}}
        folder.write_config(config)
        tell(folder, {"inputs": {"anchors": digest}})
    odd = {entry.label: entry.differs for entry in compared(tmp_path).splits[0].entries}
    assert odd == dict.fromkeys(["lander", "target", "finetune"], ()) | {
        "mfcl": ("anchors.encoder other (others clip)",)
    }


def test_a_setting_that_is_not_written_at_its_default_counts_where_it_is_missing(tmp_path: Path) -> None:
    for number, name in enumerate(["finetune", "lander", "joint"]):
        folder, config = make_run(tmp_path, name, variant=f"{number:08x}"), make_config(name, 0)
        config["data"] |= {"test_copies": "drop"} if name == "joint" else {}
        folder.write_config(config)
    odd = {entry.label: entry.differs for entry in compared(tmp_path).splits[0].entries}
    assert odd == {"lander": (), "finetune": (), "joint": ("data.test_copies drop (others left out)",)}


def test_runs_under_other_circumstances_are_marked_and_not_called_the_best(tmp_path: Path) -> None:
    make_results(tmp_path, seeds=range(FEWEST))
    for seed in range(FEWEST):
        folder = make_run(tmp_path, "joint", seed, variant="0000000a")
        config = make_config("joint", seed)
        config["federation"] |= {"rounds": 9, "backend": "ray"}  # where it ran changes nothing
        folder.write_config(config)
    found = compared(tmp_path)
    odd = {entry.label: entry.differs for entry in found.splits[0].entries}
    assert odd == {"lander": (), "finetune": (), "joint": ("federation.rounds 9 (others 4)",)}
    assert "blobs, 3 tasks, dirichlet 0.5: joint was run with federation.rounds 9 (others 4)" in found.warnings
    assert "joint †" in printed(tables(found))
    assert "†" not in markdown(found).split("joint")[0]


def mix(folder: RunFolder, **values: Any) -> None:
    """Let a run's record say that it went on in other environments."""
    folder.summary.write_text(json.dumps(json.loads(folder.summary.read_text()) | {"mixed": values}))


def test_runs_that_went_on_in_another_environment_are_marked(tmp_path: Path) -> None:
    make_results(tmp_path, seeds=(0, 1))
    mix(make_run(tmp_path, "joint", 0, variant="0000000a"))
    assert not [entry for entry in compared(tmp_path).splits[0].entries if entry.mixed]
    assert "\\S" not in latex(compared(tmp_path))
    assert "§" not in printed(tables(compared(tmp_path))).split("percent")[0]
    mix(make_run(tmp_path, "joint", 1, variant="0000000a"), torch=["2.9.1", "2.10.0"], images=["a" * 64, "b" * 64])
    found = compared(tmp_path)
    told = ("torch 2.9.1 and 2.10.0 (seed 1)", f"images {'a' * 19}… and {'b' * 19}… (seed 1)")
    assert {e.label: e.mixed for e in found.splits[0].entries} == {"lander": (), "finetune": (), "joint": told}
    assert f"{found.splits[0].label}: joint went on in another environment: {'; '.join(told)}" in found.warnings
    assert "joint §" in printed(tables(found))
    assert markdown(found).count("joint §") == 2
    assert "^{\\S}$" in latex(found)
    assert "{\\footnotesize $^\\S$ went on in another environment}" in latex(found)
    told_by = {row["strategy"]: row["mixed"] for row in csv.DictReader(io.StringIO(long_csv(found)))}
    assert told_by == {"lander": "", "finetune": "", "joint": "; ".join(told)}


@pytest.mark.parametrize("value", [7, "torch", ["torch"], {"torch": 7}, {"torch": {"a": 1}}])
def test_what_is_no_account_of_environments_is_not_told(tmp_path: Path, value: Any) -> None:
    folder = make_run(tmp_path, "finetune", 0)
    folder.summary.write_text(json.dumps(json.loads(folder.summary.read_text()) | {"mixed": value}))
    assert compared(tmp_path).splits[0].entries[0].mixed == ()


def test_every_split_has_a_table_and_splits_are_ranked_together(tmp_path: Path) -> None:
    for tasks in (2, 3, 4):
        for number, strategy in enumerate(("finetune", "lander", "target")):
            make_run(tmp_path, strategy, 0, tasks=tasks, variant=f"{tasks}{number:07x}")
    found = compared(tmp_path)
    assert len(found.splits) == 3
    assert found.ranks.ranks == {"lander": 1.0, "target": 2.0, "finetune": 3.0}
    assert "Mean ranks over 3 splits" in markdown(found)
    assert "Friedman's test over 3 splits says little" in found.warnings
    assert latex(found).count("\\multicolumn{3}{c}") == 3


def test_names_are_text_wherever_they_are_printed(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path, "fin_e|t*[red]", seed, variant="00000001")
    found = compared(tmp_path)
    assert "fin\\_e\\|t\\*\\[red\\]" in markdown(found)
    assert "fin\\_e\\textbar{}t{*}{[}red]" in latex(found)
    assert "fin_e|t*[red]" in printed(tables(found), 120)


def test_the_tables_fit_eighty_columns(tmp_path: Path) -> None:
    make_results(tmp_path)
    make_run(tmp_path, "joint", 0, variant="0000000b")
    text = printed(tables(compared(tmp_path)))
    (line,) = (line for line in text.splitlines() if line.strip().startswith("lander"))
    assert line.split()[-1] == "s"  # the last column is there
    assert "keeps all data of earlier tasks: joint" in " ".join(text.split())
    assert "…" not in text


def test_metrics_asked_for_fit_eighty_columns_however_many(tmp_path: Path) -> None:
    make_results(tmp_path)
    found, names = compared(tmp_path), [name for name in METRICS if name != "forgetting"]
    told = [printed(tables(found, names), width) for width in (80, 1000)]
    rows = [[line.split() for line in text.splitlines() if line.startswith(" lander")] for text in told]
    assert rows[0] == rows[1]  # nothing is cut off
    assert len(rows[0]) > 3
    words = set(" ".join(told[0].split()).split())
    assert {part for name in names for part in METRICS[name].title.replace("_", "_ ").split()} - words <= {
        "incremental", "accuracy",  # which have shorter names in eighty columns
    }  # fmt: skip
    assert told[0].count("percent and points, mean") == 1


def test_what_is_written_can_be_read_back(tmp_path: Path) -> None:
    make_results(tmp_path / "runs", seeds=(0, 1, 2))
    found = compared(tmp_path / "runs")
    paths = write(found, tmp_path / "tables")
    names = ["comparison.md", "comparison.tex", "definitions.tex", "comparison.csv", "tests.csv"]
    assert [path.name for path in paths] == names
    lines = list(csv.DictReader(paths[3].open()))
    assert {line["metric"] for line in lines} == set(METRICS)
    (line,) = (x for x in lines if x["strategy"] == "lander" and x["metric"] == "final_accuracy")
    assert float(line["mean"]) == pytest.approx(found.splits[0].entries[0].spreads["final_accuracy"].mean, rel=1e-5)
    (test,) = csv.DictReader(paths[4].open())
    assert float(test["p"]) == pytest.approx(0.25)
    again = json.loads(json.dumps(to_json(found)))
    assert again["friedman"] is None
    assert len(again["rows"]) == len(lines)


def test_every_definition_of_forgetting_is_printed_by_name(tmp_path: Path) -> None:
    make_results(tmp_path)
    found = compared(tmp_path)
    text, tex = markdown(found), latex_details(found)
    for name in (*FORGETTING, "BWT", "plasticity", "stability"):
        assert name in text
        assert name.replace("_", "\\_") in tex
    for run in find_runs([tmp_path]):  # the numbers of the table are those of the counts, whatever the road
        told = metrics.summary(run.rows)
        (entry,) = (e for e in found.splits[0].entries if e.label == run.strategy)
        for name in FORGETTING:
            key = "forgetting" if name == "chaudhry" else f"forgetting_{name}"
            assert entry.by_seed(key)[run.seed] == pytest.approx(100 * told["forgetting"][name], abs=1e-9)
        assert entry.by_seed("bwt")[run.seed] == pytest.approx(100 * told["bwt"], abs=1e-9)


def test_the_first_strategy_is_tested_against_every_other(tmp_path: Path) -> None:
    make_results(tmp_path, seeds=(0, 1, 2))
    found = compared(tmp_path)
    first, others = found.splits[0].against_first()
    assert (first, [pair.b for pair in others]) == ("lander", ["finetune"])
    assert f"finetune {others[0].difference:+.1f}, p = 0.25 (n = 3)" in markdown(found)


def test_memory_is_compared_where_it_was_counted(tmp_path: Path) -> None:
    make_results(tmp_path, seeds=(0,))
    old = RunFolder(tmp_path / "toy" / "finetune-00000000" / "seed0")
    told = json.loads(old.summary.read_text())
    assert told.pop("peak_memory_bytes") > 2**20
    old.summary.write_text(json.dumps(told))
    lines = {line.split(" |")[0]: line for line in markdown(compared(tmp_path)).splitlines()[::-1]}
    assert lines["| finetune"].endswith("| \N{EN DASH} |")
    assert lines["| lander"].endswith(("MB |", "GB |"))


def test_latex_has_as_many_cells_in_each_line_as_columns(tmp_path: Path) -> None:
    for tasks in (1, 2, 3, 4):  # of one task no forgetting is known
        make_run(tmp_path, "[a]_%&", 0, tasks=tasks, variant=f"{tasks}0000000")
    found = compared(tmp_path)
    assert latex(found).count("\\begin{tabular}") == 2  # three splits fit beside each other
    for text in (latex(found), latex_details(found)):
        for part in text.split("\\begin{tabular}{l")[1:]:
            columns = part.index("}") + 1
            rows = [line for line in part.splitlines() if line.startswith(("strategy", "{[}a]\\_\\%\\&"))]
            assert {line.replace("\\&", "").count("&") + 1 for line in rows} == {columns}
            assert not any(line.startswith(("[", "*")) for line in part.splitlines())
    assert " & n/a & " in latex_details(found)  # of one task nothing is forgotten


def test_what_so_few_tasks_do_not_define_is_said_to_be_so_everywhere(tmp_path: Path) -> None:
    make_results(tmp_path, tasks=2)
    found = compared(tmp_path)
    assert all(entry.spreads["forgetting_libcontinual"] is None for entry in found.splits[0].entries)
    (heads, line), place = second_table(markdown(found)), "forgetting (libcontinual)"
    assert line[heads.index(place)] == "n/a"
    assert line[heads.index("forgetting (first)")] != "n/a"
    assert latex_details(found).count(" & n/a") == 2
    csv_rows = [r for r in csv.DictReader(io.StringIO(long_csv(found))) if r["metric"] == "forgetting_libcontinual"]
    assert [(r["mean"], r["std"], r["n"]) for r in csv_rows] == [("", "", "0")] * 2
    json_rows = [r for r in to_json(found)["rows"] if r["metric"] == "forgetting_libcontinual"]
    assert [(r["mean"], r["n"]) for r in json_rows] == [(None, 0)] * 2
    (run, *_) = find_runs([tmp_path])
    assert json.loads(run.folder.summary.read_text())["forgetting"]["libcontinual"] is None
    (told,) = (x for x in printed(metrics_table(run.summary), 120).splitlines() if "libcontinual" in x)
    assert told.split()[2] == "n/a"


def test_one_task_and_one_seed_leave_nothing_to_be_read_as_a_number(tmp_path: Path) -> None:
    make_run(tmp_path, "finetune", tasks=1)
    found = compared(tmp_path)
    heads, line = second_table(markdown(found))
    told = {
        head: cell for head, cell in zip(heads, line, strict=True) if head.startswith("forgetting") or head == "BWT"
    }
    assert set(told.values()) == {"n/a"}
    assert len(told) == 7
    assert line[heads.index("plasticity")] != "n/a"
    (one,) = (r for r in csv.DictReader(io.StringIO(long_csv(found))) if r["metric"] == "plasticity")
    assert (one["std"], one["low"], one["high"], one["n"]) == ("", "", "", "1")
    assert one["mean"] != ""
    assert "±" not in markdown(found).replace("± sample", "")


def second_table(text: str) -> tuple[list[str], list[str]]:
    """Titles and first line of the table of every definition."""
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    start = max(i for i, line in enumerate(lines) if line[0] == "strategy")
    return lines[start], lines[start + 1]


# The command --------------------------------------------------------------------------------------


def test_the_command_prints_writes_and_names_what_it_leaves_out(command: Command, tmp_path: Path) -> None:
    make_results(tmp_path / "runs")
    broken = make_run(tmp_path / "runs", "finetune", 7, variant="00000000")
    broken.accuracy.write_text("no table\n")
    make_run(tmp_path / "runs", "finetune", 8, variant="00000000", stop_after=1)
    said = command("compare", tmp_path / "runs")
    assert said.code == 0
    assert "lander" in said.out
    assert (tmp_path / "runs" / "tables" / "comparison.tex").is_file()
    left = [line for line in said.err.splitlines() if line.startswith("left out: ")]
    assert len(left) == 2
    assert any("seed7" in line and "expected the columns" in line for line in left)
    assert any("seed8" in line and "not finished" in line for line in left)
    assert json.loads(command("compare", tmp_path / "runs", "--json").out)["rows"]


CUT = b"trained_task,tested_task,correct,examples,accuracy\n1,1,9,10,0.9\n2,1,"
DAMAGE: list[tuple[str, bytes | None]] = [
    *(("accuracy.csv", content) for content in (CUT, b"", b"\x00\xff\x80", b"task,accuracy\n1,0.9\n", b"nan\n", None)),
    *(("summary.json", content) for content in (b"", b'{"tasks": 3', b"\x80\x00", b"[]", b"NaN", None)),
    *(("config.yaml", content) for content in (b"", b"name: [", b"\x80\x00", b"- 1\n", b"seed: .nan\nname: 3\n")),
    *(("rounds.jsonl", content) for content in (b"", b"\x80\x00\n", b"{}\n", b'{"task": 1, "round": 1}\n', None)),
    ("partition.json", None),
]
"""A file and what is in it instead; None for a folder in its place."""


@pytest.mark.parametrize(("name", "content"), DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_run_is_named_and_never_counted(tmp_path: Path, name: str, content: bytes | None) -> None:
    make_results(tmp_path, ["finetune"], seeds=(0, 1))
    broken = tmp_path / "toy" / "finetune-00000000" / "seed1"
    (broken / name).unlink()
    (broken / name).mkdir() if content is None else (broken / name).write_bytes(content)
    skipped: list[str] = []
    runs = find_runs([tmp_path], skipped=skipped)
    assert [run.seed for run in runs] == [0]
    assert len(skipped) == 1
    assert str(broken) in skipped[0]
    assert "\n" not in skipped[0]
    assert compare(runs).splits[0].entries[0].spreads["final_accuracy"].n == 1


def test_an_experiment_is_left_out_where_its_summary_is_missing(tmp_path: Path) -> None:
    make_results(tmp_path, ["finetune"], seeds=(0, 1))
    (tmp_path / "toy" / "finetune-00000000" / "seed1" / "summary.json").unlink()
    skipped: list[str] = []
    assert [run.seed for run in find_runs([tmp_path], skipped=skipped)] == [0]
    assert "not finished (go on with: fcil resume" in skipped[0]


@pytest.mark.parametrize("verb", ["compare", "plot"])
def test_tables_and_figures_of_finished_runs_do_without_torch_and_pandas(verb: str) -> None:
    code = f"import sys, fcil.cli, fcil.store, fcil.{verb.replace('plot', 'plots')}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "flwr", "ray", "scipy.stats"} & set(done.stdout.split())


def test_nothing_to_compare_is_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(command("compare", tmp_path / "empty"), "empty: no finished run")
    assert_refused(command("compare", tmp_path / "nowhere"), "nowhere: no such folder")
