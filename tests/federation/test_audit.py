"""What clients touch: recorded for honest strategies, and the end of the run for a cheat."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from small_runs import Stop, StopAfter, play, silently, write_experiment, write_strategy

from fcil.cli import main
from fcil.errors import LeakError
from fcil.federation.context import Datasets
from fcil.federation.messages.audit import Ledger, Told, WatchedImages, read_audit
from fcil.federation.messages.replies import InvalidReplyError
from fcil.runs.plans import read

HEAD = '''"""Looks where it may not."""

from dataclasses import dataclass, replace

import torch

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class Cheat(Strategy):
'''

PAST = """
    def local_train(self, client):
        if not client.task.first:
            old = client.memory["old"]
            client.shard = replace(client.shard, indices=old["i"], labels=old["l"], tasks=old["t"])
        update = super().local_train(client)
        s = client.shard
        client.memory["old"] = {"i": s.indices.clone(), "l": s.labels.clone(), "t": s.tasks.clone()}
        return update
"""
OTHERS = """
    def local_train(self, client):
        everything = torch.arange(len(client.shard.images))
        list(client.shard.images.subset(everything[:3]).stream([torch.arange(3)]))
        return super().local_train(client)
"""
HOARD = """
    def after_local_task(self, client):
        s = client.shard
        client.memory["all"] = {"indices": s.indices, "labels": s.labels, "tasks": s.tasks}
"""
STOLEN = """
    def after_local_task(self, client):
        s = client.shard
        client.memory["mine"] = {"indices": s.indices[:1] * 0 + 7, "labels": s.labels[:1], "tasks": s.tasks[:1]}
"""
TESTED = """
    def predict(self, net, x, shared):
        shared["seen"] = x.clone()
        return super().predict(net, x, shared)
"""
SECOND = """
    def predict(self, net, x, shared):
        shared["mean"].copy_(x.mean(dim=(0, 2, 3)))
        return super().predict(net, x, shared)

    def before_task(self, server):
        server.shared["mean"] = torch.zeros(1)
"""


def cheat(tmp_path, body, **parts):
    return write_experiment(tmp_path, strategy=str(write_strategy(tmp_path, HEAD + body, "cheat")), **parts)


@pytest.mark.parametrize(
    ("body", "federation", "said"),
    [
        (PAST, {}, r'client 0, task 2, round 1: used \d+ images of class 0 \("\w+", task 1\) and of 1 more class, '
                   "which it has not kept"),
        (OTHERS, {}, r"client 0, task 1, round 1: used \d images? of class .* which (it does not hold|has not come)"),
        (HOARD, {"exemplars": 5}, r"client 0, task 1, round 2: keeps \d+ images; federation.exemplars allows 5"),
        (STOLEN, {}, r"client \d, task 1, round 2: keeps 1 image of class \d"),
        (TESTED, {}, r"server\.shared\.seen has changed while test images were shown"),
        (SECOND, {}, r"server\.shared\.mean has changed while test images were shown"),
    ],
)  # fmt: skip
def test_a_cheat_ends_the_run_whatever_the_policy(tmp_path, body, federation, said):
    source = cheat(tmp_path, body, federation={"on_failure": "skip", "min_success": 0.0001, **federation})
    with pytest.raises(LeakError, match=said):
        play(source, out=tmp_path / "out")
    assert not list(tmp_path.glob("out/**/summary.json"))


def ends(run):
    """What is recorded at the end of each task."""
    return [record["after_task"] for record in run.rounds if "after_task" in record]


@pytest.mark.parametrize(
    ("strategy", "second"),
    [("finetune", [2, 3]), ("joint", [0, 1, 2, 3]), ({"icarl": {"exemplars": 6}}, [0, 1, 2, 3])],
)
def test_what_was_touched_is_what_is_allowed_and_recorded_by_task(tmp_path, strategy, second):
    (run,) = play(write_experiment(tmp_path, strategy=strategy, data={"partition": "iid"}), out=tmp_path)
    first, last = ends(run)
    assert first["touched"] == first["allowed"] == {"0": [0, 1], "1": [0, 1]}
    assert last["allowed"] == {"0": second, "1": second}
    assert last["touched"] == last["allowed"]
    kept = [record.get("exemplars", 0) for record in (first, last)]
    assert kept == ([12, 12] if isinstance(strategy, dict) else [0, 0])


def test_flipped_labels_are_those_of_the_images_in_the_record(tmp_path):
    attack = {"attack": {"label_flip": {"share": 1.0}}}
    (run,) = play(write_experiment(tmp_path, federation=attack, data={"partition": {"classes": 1}}), out=tmp_path)
    assert sorted(ends(run)[0]["touched"].values()) == [[0], [1]]
    assert ends(run)[0]["touched"] == ends(run)[0]["allowed"]


def test_a_resumed_run_has_the_same_record(tmp_path):
    source = write_experiment(tmp_path, strategy={"replay": {"memory": 4}}, data={"partition": {"classes": 1}})
    (whole,) = play(source, out=tmp_path / "whole")
    for count in (1, 2):
        with pytest.raises(Stop):
            play(source, out=tmp_path / "again", observer=StopAfter(count))
    (again,) = play(source, out=tmp_path / "again")
    assert ends(again) == ends(whole)
    assert [r.get("drawn") for r in again.rounds] == [r.get("drawn") for r in whole.rounds]


def test_draws_from_a_shared_pool_are_counted(tmp_path):
    draws = (
        HEAD
        + """
    def local_train(self, client):
        if not client.task.first:
            client.draw("pool", 3), client.draw("pool", 3)
        return super().local_train(client)

    def after_task(self, server, updates):
        server.shared["pool"] = {"x": torch.zeros(4, 1, 8, 8, dtype=torch.uint8), "y": torch.zeros(4).long()}
"""
    )
    (run,) = play(write_experiment(tmp_path, strategy=str(write_strategy(tmp_path, draws, "draws"))), out=tmp_path)
    assert [r.get("drawn") for r in run.rounds] == [None, None, {"pool": 12}, {"pool": 12}]
    assert ends(run)[0]["shared"] == {"pool": 4 * 64 + 4 * 8}


def test_the_same_images_in_the_same_order_come_through(tmp_path):
    plan = read(write_experiment(tmp_path))[0].plans()[0]
    shard = Datasets().open(plan).scenario.shard(1, 0)
    watched = WatchedImages(shard.images)
    found = [list(s.batches(7, torch.Generator().manual_seed(3))) for s in (shard, replace(shard, images=watched))]
    assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(*found, strict=True))
    assert sorted(torch.cat(watched.used).tolist()) == sorted(shard.indices.tolist())


def test_an_audit_that_no_client_of_ours_writes_is_refused():
    for text in ("", "[]", "{}", '{"touched": [-1], "allowed": [], "kept": 0, "drawn": {}, "leak": ""}'):
        reply = Message(RecordDict({"audit": ConfigRecord({"audit": text})}), 1, "train")
        with pytest.raises(InvalidReplyError, match="audit"):
            read_audit(reply)
    assert read_audit(Message(RecordDict(), 1, "train")) is None


def test_a_ledger_sums_and_forgets():
    ledger = Ledger()
    for touched, count in (([1], 5), ([0, 1], 6)):
        ledger.note("task 1, round 1", 3, Told(touched, [0, 1], 2, {"pool": count}, ""))
    assert ledger.line() == {"drawn": {"pool": 11}, "exemplars": 4}
    assert ledger.line() == {}
    again = Ledger.restored(json.loads(json.dumps(ledger.values())))
    assert ledger.end() == again.end() == {"touched": {"3": [0, 1]}, "allowed": {"3": [0, 1]}}
    assert ledger.end() == {"touched": {}, "allowed": {}}


def test_the_command_ends_with_one_line_and_code_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fcil", "run", str(cheat(tmp_path, PAST)), "--out", str(tmp_path / "out")])
    with silently(), pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("client 0, task 2, round 1: used ")
    assert "Traceback" not in last
