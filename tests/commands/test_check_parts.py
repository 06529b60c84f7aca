"""`fcil check` of a net, a data set, a synthesizer and a partition: each mistake fails the law that is about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fcil.check import Report, check
from fcil.check.parts import PART_CHECKS, other_part
from fcil.errors import ConfigError
from fcil.methods.scaffold import begin

Checked = Callable[..., Report]


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    """The report about a part that `fcil new` begins, with something in its file replaced."""

    def run(kind: str, before: str, after: str, *overrides: str) -> Report:
        begin(kind, "mine", tmp_path)
        path = tmp_path / "mine.py"
        assert before in path.read_text()
        path.write_text(f"{path.read_text().replace(before, after)}\n\nSEEN = []\n")
        return check(path, *overrides)

    return run


FORWARD = "return self.layers(x)"
MISTAKES = [
    ("net", '    """Layers."""', "", "options", "depth has no sentence under it"),
    ("net", FORWARD, "print(x.shape)\n        return self.layers(x)", "source", "print()"),
    ("net", "4 * width  #", "3 * width  #", "builds", "two samples have features [2, 64]; expected [2, width]"),
    ("net", FORWARD, "return self.layers(x) / 0", "outputs", "hold NaN or infinity"),
    ("net", FORWARD, "return nn.functional.dropout(self.layers(x), 0.5)", "modes", "differ from one call to the next"),
    (
        "net",
        FORWARD,
        "x = self.layers(x)\n        return x - x.mean(0)",
        "mates",
        "when other samples are beside its own",
    ),
    (
        "net",
        "norm_factory(norm)(width)",
        "nn.BatchNorm2d(width, track_running_stats=False)",
        "mates",
        "a logit moves by",
    ),
    (
        "net",
        FORWARD,
        "self.layers[1].running_mean += 1\n        return self.layers(x)",
        "modes",
        "backbone.layers.1.running_mean changes in evaluation mode",
    ),
    (
        "net",
        "nn.Flatten())",
        "nn.Flatten(), nn.BatchNorm1d(4 * width))",
        "one",
        "in training mode Expected more than 1",
    ),
    (
        "net",
        "self.layers = nn",
        "hidden = nn.Linear(1, 1)\n"
        "        self.forward = lambda x: self.layers(x) * hidden.weight.detach()\n"
        "        self.layers = nn",
        "state",
        "a net with its weights has other logits",
    ),
    (
        "net",
        "self.width = 4 * width",
        "self.idle = nn.Linear(2, 2)\n        self.width = 4 * width",
        "",
        "backbone.idle.weight",
    ),
    ("dataset", "np.random.default_rng(0)", "np.random.default_rng()", "repeat", "is another when it is loaded again"),
    (
        "dataset",
        "rng = np.random.default_rng(0)",
        "np.random.seed(0)\n        rng = np.random.default_rng(0)",
        "repeat",
        "when it is loaded, the global stream of np.random is not as it was before",
    ),
    ("dataset", "np.arange(10), each)", "np.arange(9), each)", "loads", "has no sample of class 9"),
    ("dataset", 'f"stripe {k}"', '"stripe"', "names", "two classes are called 'stripe'"),
    ("dataset", "return Samples(x, y, x_test, y_test", "return Samples(x, y, x, y", "", "600 of 600 are, the first"),
    (
        "partition",
        "rng.permutation(len(labels))",
        "np.random.permutation(len(labels))",
        "repeat",
        "draw from rng alone",
    ),
    ("partition", "rng.permutation(len(labels))", "labels", "dealt", "is dealt"),
    (
        "partition",
        "        shares =",
        "        SEEN.append(1)\n        rng = np.random.default_rng(len(SEEN))\n        shares =",
        "repeat",
        "deals otherwise",
    ),
    ("partition", "        shares =", "        labels[:] = 0\n        shares =", "labels", "deal changes labels"),
    ("partition", "skew: NonNegative = 1.0", "skew: NonNegative = 9.0", "", "is dealt none of 120"),
    ("synthesizer", "generator=rng)", ")", "repeat", "x is another under another global seed"),
    ("synthesizer", '"mine", chain)', '"mine")', "", "name the chain in the key"),
    ("synthesizer", '"y": state.y}', '"y": state.y * 0}', "pool", "it has samples of class 0; 1 and 3 were asked for"),
    ("synthesizer", '.to(torch.uint8), "y"', ', "y"', "pool", "x is torch.float32 [16, 1, 8, 8]; expected torch.uint8"),
    ("synthesizer", '"ce": F', '"ce": torch.nan * F', "episode", 'term "ce" of episode 1 is nan'),
    (
        "synthesizer",
        "        state.x = x.detach()",
        "        problem.teacher.classifier.bias.data += 1\n        state.x = x.detach()",
        "teacher",
        "classifier.bias of the teacher changes",
    ),
    (
        "synthesizer",
        "        adam = torch",
        "        x.data += 0.01 * len(SEEN)\n        SEEN.append(1)\n        adam = torch",
        "repeat",
        "x is another",
    ),
    (
        "synthesizer",
        "        x = state.x.clone()",
        "        state.more = getattr(state, 'more', 0) + 1\n        x = (0.9**state.more * state.x).clone()",
        "resume",
        "x is another; what must outlive an episode belongs in the state",
    ),
]


@pytest.mark.parametrize(("kind", "before", "after", "law", "said"), MISTAKES, ids=lambda value: str(value)[:30])
def test_a_mistake_fails_the_law_that_is_about_it(
    checked: Checked, kind: str, before: str, after: str, law: str, said: str
) -> None:
    report = checked(kind, before, after)
    assert report.kind == kind
    lines = {result.name: result.problem for result in report.results}
    if not law:  # a remark
        assert report.failed == []
        assert any(said in line for line in lines.values())
        return
    assert [result.name for result in report.failed][:1] == [law], lines
    assert said in lines[law]


def test_every_law_says_what_it_is_and_needs_earlier_ones() -> None:
    for laws in PART_CHECKS.values():
        for number, law in enumerate(laws):
            assert law.what.endswith(".")
            assert set(law.needs) <= {earlier.name for earlier in laws[:number]}


def test_settings_are_given_as_those_of_a_strategy_are(checked: Checked, tmp_path: Path) -> None:
    assert checked("dataset", "Count = 60", "Count = 30", "each=40").passed
    with pytest.raises(ConfigError, match=r"eac: unknown key \(allowed: each\). Did you mean \"each\"?"):
        check(tmp_path / "mine.py", "eac=40")


def test_the_root_of_a_data_set_is_handed_on(checked: Checked, tmp_path: Path) -> None:
    report = checked(
        "dataset", "rng = np.random.default_rng(0)", "rng = np.random.default_rng(len(str(root)))", "root=x"
    )
    assert report.passed, report
    refusing = checked_again(tmp_path, "assert root is None, root")
    assert "load raised AssertionError: x" in str(check(refusing, "root=x"))


def checked_again(folder: Path, line: str) -> Path:
    path = folder / "mine.py"
    path.write_text(path.read_text().replace("        rng = np", f"        {line}\n        rng = np"))
    return path


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "X = 1\n",
            "must define exactly one of Strategy, Architecture, DataSource, Synthesizer, Partitioner; it defines none",
        ),
        (
            "from fcil.data import DataSource, Partitioner\nclass A(DataSource): ...\nclass B(Partitioner): ...\n",
            "it defines DataSource and Partitioner",
        ),
        (
            "from fcil.data import Partitioner\nclass A(Partitioner): ...\nclass B(Partitioner): ...\n",
            "must define exactly one Partitioner; it defines A, B",
        ),
        ("import nothing_of_this_name\n", "does not load: ModuleNotFoundError"),
    ],
)
def test_what_is_no_part_is_refused(tmp_path: Path, source: str, said: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(ConfigError, match=said):
        check(path)


def test_a_strategy_may_bring_its_own_synthesizer(tmp_path: Path) -> None:
    begin("synthesizer", "mine", tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(f"{path.read_text()}\n\nfrom fcil import Strategy\n\nclass Method(Strategy): ...\n")
    assert other_part(path) is None
