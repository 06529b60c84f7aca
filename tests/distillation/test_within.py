"""Students that learn within the episodes, as adversarial methods have it; and settings that nothing would read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_distillations import taught, write
from small_runs import Stop, StopAfter
from tiny_net import tiny_net

from fcil.data import Augment
from fcil.distillation import read
from fcil.errors import ConfigError
from fcil.nets import frozen
from fcil.nets.norms import BatchNorm2d, population_statistics
from fcil.store import final_weights, load_run
from fcil.synthesis import SynthesisProblem, create
from fcil.synthesis.common.base import Recipe

SMALL = {"rounds": 3, "steps": 2, "batch_size": 10, "samples": 20, "width": 4, "latent": 8, "student_batch": 10}
ALTERNATING = ["dafl", "zskt", "dfq", "dfad"]


def within(folder: Path, method: str, student: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A distillation whose student has nothing set that its method would not read."""
    path = write(folder, synthesizer={method: {**SMALL, **settings}})
    text = path.read_text(encoding="utf-8").splitlines()
    begin = text.index("student:")
    end = next(n for n in range(begin + 1, len(text)) if not text[n].startswith(" "))
    net = "student: {net: {name: resnet8, width: 2}, evaluate_every: 1, snapshots: 0}"
    lines = [f"  {key}: {value}" for key, value in (student or {}).items()]
    if lines:
        net = "\n".join(["student:", "  net: {name: resnet8, width: 2}", "  snapshots: 0", *lines])
    path.write_text("\n".join([*text[:begin], net, *text[end:]]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("method", ALTERNATING)
def test_an_alternating_method_teaches_the_student_unless_told_otherwise(tmp_path: Path, method: str) -> None:
    (one,) = read(within(tmp_path, method))
    assert (one.resolved_student.learns, one.resolved_student.rounds) == ("within", 3)
    plan = one.student_plan(0)
    assert plan.federation.rounds == 3
    assert plan.strategy.strategy.options()["learns"] == "within"
    (run,), _ = taught(within(tmp_path, method), out=tmp_path / "out")
    distance = "l1" if method == "dfad" else "kl"
    assert all(f"student_{distance}" in record["terms"] for record in run.rounds)
    assert len({record["weights"] for record in run.rounds}) == 3  # of the student, who learns in every round


@pytest.mark.parametrize("method", ["dafl", "dfad", "nayer", "muse", "fast", "cmi", "deepinversion"])
def test_the_callers_student_learns_as_the_methods_own_does(method: str) -> None:
    """The same loss, steps and rate: from equal weights both become the same net."""
    teacher, shape = frozen(tiny_net(4, text_width=8)), (3, 8, 8)
    small: dict[str, Any] = {"dafl": SMALL, "dfad": SMALL}.get(method, {"rounds": 3, "steps": 2, "batch_size": 10})
    if method in ("nayer", "muse"):
        small = {**small, "warmup": 1, "student_steps": 2, "student_batch": 10}
    elif method not in ("dafl", "dfad"):
        small = {**small, "student_steps": 2, "student_batch": 10}
    if method == "muse":
        small = {**small, "schedule": "lander", "loops": 1, "warmup_loops": 1, "sizes": [6, 8], "ed": 0}
    synthesizer = create(method, samples=20, **{k: v for k, v in small.items() if k != "samples"})
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    about: dict[str, Any] = {"labels": (0, 1, 2, 3), "shape": shape, "anchors": torch.randn(4, 8), "bound": None}
    about |= {"mean": mean, "std": std, "augment": Augment(), "key": (0,)}
    mine = tiny_net(4, text_width=8, key=5).eval().requires_grad_(False)
    before = mine.weights()
    before = {name: t.clone() for name, t in before.items()}
    problem = SynthesisProblem(teacher=teacher, student=mine, student_learns="method", **about)
    chain = synthesizer.start(problem, 0)
    for number in range(1, synthesizer.episodes + 1):
        synthesizer.episode(problem, chain, number)
    assert any(not torch.equal(t, before[name]) for name, t in mine.weights().items())
    theirs = tiny_net(4, text_width=8, key=5).eval().requires_grad_(False)
    left = SynthesisProblem(teacher=teacher, student=theirs, **about)
    chain = synthesizer.start(left, 0)
    for number in range(1, synthesizer.episodes + 1):
        synthesizer.episode(left, chain, number)
    assert all(torch.equal(t, before[name]) for name, t in theirs.weights().items())  # the caller's to teach


@pytest.mark.parametrize(
    ("method", "student", "settings", "said"),
    [
        ("dfad", {"steps": 5}, {}, "student: steps is set, and nothing would read it.*dfad's student_steps is read"),
        ("dfad", {"optimizer": "{lr: 0.1}"}, {}, "student: optimizer is set.*dfad's student_lr is read instead"),
        ("dfad", {"rounds": 7}, {}, "student: rounds is 7.* has 3 of them; leave it out"),
        ("dfad", {"wait": 1}, {}, "student: wait is set"),
        ("dfad", {"learns": "between", "rounds": 4}, {"student_steps": 9}, "dfad: student_steps is set, and nothing"),
        (
            "dafl",
            {"learns": "between", "rounds": 4},
            {"distance": "l1"},
            "dafl: student_batch is set, and nothing would read it: adv is 0",
        ),
        ("rdskd", {"learns": "within"}, {}, "student.learns: within is not allowed with rdskd, which teaches none"),
        ("dfad", {}, {"chains": 2}, "a student that learns within episodes listens to one chain"),
    ],
)
def test_a_setting_that_nothing_would_read_is_refused(
    tmp_path: Path, method: str, student: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    own = {k: v for k, v in SMALL.items() if method != "rdskd" or k != "student_batch"}
    path = within(tmp_path, method, student, **settings)
    if method == "rdskd":
        path.write_text(path.read_text().replace("    student_batch: 10\n", ""), encoding="utf-8")
    assert own
    with pytest.raises(ConfigError, match=said):
        read(path)


def test_a_distiller_is_refused_where_the_method_has_a_loss_of_its_own(tmp_path: Path) -> None:
    path = within(tmp_path, "dfad")
    with pytest.raises(ConfigError, match=r"distiller is set, and nothing would read it.*dfad has a loss of its own"):
        read(path, ["distiller=l1"])
    assert read(
        path, ["distiller=l1", "student.learns=between", "student.rounds=4", "synthesizer.dfad.student_batch=256"]
    )


def test_precision_is_read_within_episodes_too(tmp_path: Path) -> None:
    (one,) = read(within(tmp_path, "dfad"), ["student.optimizer={precision: bf16}"])
    assert one.student_plan(0).optimizer.precision == "bf16"


def test_rdskd_is_followed_by_a_student_as_its_code_has_it(tmp_path: Path) -> None:
    path = within(tmp_path, "rdskd", {"rounds": 4})
    path.write_text(path.read_text().replace("    student_batch: 10\n", ""), encoding="utf-8")
    (one,) = read(path)
    plan = one.student_plan(0)
    assert (one.resolved_student.learns, plan.optimizer.name, plan.optimizer.lr) == ("after", "adam", 2e-3)
    assert one.resolved_distiller.to_yaml() == {"kd": {"temperature": 10.0}}
    assert create("nayer").recipe == Recipe()


def test_a_run_that_was_stopped_goes_on_to_the_same_student(tmp_path: Path) -> None:
    source = within(tmp_path, "dfad")
    (whole,), _ = taught(source, out=tmp_path / "whole")
    with pytest.raises(Stop):
        taught(source, out=tmp_path / "out", observer=StopAfter(3))  # one of the teacher's two rounds, and more
    taught(source, out=tmp_path / "out")
    (folder,) = (tmp_path / "out").glob("tiny/distill-*/seed0")
    assert [r["weights"] for r in load_run(folder).rounds] == [r["weights"] for r in whole.rounds]


# BatchNorm statistics at the end -----------------------------------------------------------------


@pytest.mark.parametrize("learns", ["between", "after"])
def test_statistics_taken_anew_are_those_of_the_training_images_and_change_nothing_else(
    tmp_path: Path, learns: str
) -> None:
    nets = {}
    for choice in ("as_is", "reestimate"):
        path = write(tmp_path / choice, student={"learns": learns, "batchnorm": choice})
        (run,), _ = taught(path, out=tmp_path / f"out-{choice}")
        nets[choice] = final_weights(run.path)
    kept, anew = nets["as_is"], nets["reestimate"]
    statistics = {name for name in kept if name.endswith(("running_mean", "running_var"))}
    assert len(statistics) == 14
    assert all(torch.equal(kept[name], anew[name]) for name in kept.keys() - statistics)
    assert not any(torch.equal(kept[name], anew[name]) for name in statistics)


def test_statistics_of_one_batch_are_its_mean_and_unbiased_variance() -> None:
    net = torch.nn.Sequential(BatchNorm2d(3))
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = population_statistics(net, [x])
    assert torch.allclose(found["0.running_mean"], x.mean(dim=(0, 2, 3)))
    assert torch.allclose(found["0.running_var"], x.var(dim=(0, 2, 3), correction=1))
    assert not net[0].running_mean.any()  # the net itself is left as it was


def test_statistics_cannot_be_taken_anew_where_there_are_none(tmp_path: Path) -> None:
    net = {"name": "resnet8", "width": 2, "norm": "group"}
    with pytest.raises(ConfigError, match="batchnorm: reestimate is not allowed with a net of norm group"):
        read(write(tmp_path, student={"net": net, "batchnorm": "reestimate"}))
