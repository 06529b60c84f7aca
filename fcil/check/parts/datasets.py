"""Laws of a data set."""

from __future__ import annotations

from hashlib import sha256

import torch
from torch import Tensor

from fcil import rng
from fcil.check.contract import Advice, Check
from fcil.check.parts.case import PartCase, touched
from fcil.data import Dataset, DataSettings, Samples, Scenario, load_dataset


def loaded(case: PartCase) -> Samples:
    """Return the samples, with the checks of every run: types, shapes, labels, and each class in both parts."""
    found: Samples = case.once("samples", lambda: case.settings.samples(case.root))
    return found


def dataset_of(case: PartCase) -> tuple[Dataset, DataSettings]:
    settings = DataSettings(dataset=case.part.path, own=case.settings, root=case.root, tasks=2)
    return case.once("dataset", lambda: load_dataset(settings)), settings


def check_loads(case: PartCase) -> str | None:
    """It loads: samples of one type and shape, labels that have names, each class in training and test."""
    loaded(case)
    return None


def check_names(case: PartCase) -> str | None:
    """There are two classes or more, and each has a name of its own."""
    names = list(loaded(case).class_names)
    if len(names) < 2:
        return f"there is one class, {names[0]!r}; two are needed" if names else "there is no class"
    if any(not name.strip() for name in names):
        return f"class {[not name.strip() for name in names].index(True)} has an empty name"
    twice = [name for name in names if names.count(name) > 1]
    return f"two classes are called {twice[0]!r}" if twice else None


def check_repeat(case: PartCase) -> str | None:
    """It is the same to the bit each time, and neither uses nor touches a global random stream."""
    found, problem = touched(lambda _: case.settings.samples(case.root))
    for again in found:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            first, second = (getattr(one, name) for one in (loaded(case), again))
            same = first.shape == second.shape and torch.equal(first.nan_to_num(), second.nan_to_num())
            if not same:
                return f"{name} is another when it is loaded again; every worker loads it for itself"
        if again.class_names != loaded(case).class_names:
            return "class names are others when it is loaded again"
    return f"when it is loaded, {problem}" if problem else None


def check_tasks(case: PartCase) -> str | None:
    """It is cut into two tasks, shared out, and read in finite batches."""
    dataset, settings = dataset_of(case)
    scenario = Scenario(dataset, settings, clients=2, seed=0)
    for task in (1, 2):
        for batch in scenario.shard(task, 0).batches(8, rng.generator("check", task)):
            finite = torch.isfinite(batch.x if dataset.kind == "images" else batch.x.nan_to_num())
            if not bool(finite.all()):
                return "a normalised sample holds NaN or infinity; is a channel the same in all images?"
    return None


def check_apart(case: PartCase) -> str | None:
    """No sample of the test part is a training sample too."""
    samples = loaded(case)
    known = {_digest(x) for x in samples.x_train}
    twice = [row for row, x in enumerate(samples.x_test) if _digest(x) in known]
    if not twice:
        return None
    return Advice(f"{len(twice):,} of {len(samples.x_test):,} are, the first of them x_test[{twice[0]}]")


def _digest(x: Tensor) -> bytes:
    return sha256(x.numpy().tobytes()).digest()


CHECKS = (
    Check("loads", check_loads),
    Check("names", check_names, ("loads",)),
    Check("repeat", check_repeat, ("loads",)),
    Check("tasks", check_tasks, ("loads", "names")),
    Check("apart", check_apart, ("loads",)),
)
