"""What is kept of methods is what is read of them live, and a file that is another is read live."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fcil.errors import ConfigError
from fcil.methods import catalogue, listing
from fcil.methods.files import built_in_files

KINDS = [*catalogue.NAMED, *catalogue.SOURCES]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("strategies").mkdir()


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds that were read live."""
    asked: list[str] = []

    def watched(kind: str) -> None:
        read = listing.LISTINGS[kind]
        monkeypatch.setitem(listing.LISTINGS, kind, lambda: [asked.append(kind), *read()][1:])

    for kind in KINDS:
        watched(kind)
    return asked


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_what_is_read_live(kind: str, live: list[str]) -> None:
    rows = catalogue.rows(kind)
    kept = [catalogue.one(kind, next(iter(row.values()))) for row in rows]
    assert live == []
    assert rows == listing.LISTINGS[kind]()
    assert [list(row) for row in rows] == [list(row) for row in listing.LISTINGS[kind]()]  # in this order too
    for row in (kept[0], kept[-1]):
        again = listing.one(kind, next(iter(row.values())))
        assert (row, list(row)) == (again, list(again))


def test_a_strategy_of_ones_own_is_read_live(live: list[str]) -> None:
    source = built_in_files()["finetune"].read_text(encoding="utf-8")
    Path("strategies/mine.py").write_text(source.replace('"""', '"""Mine: ', 1), encoding="utf-8")
    (row,) = [row for row in catalogue.rows("strategies") if row["strategy"] == "mine"]
    assert row["what"].startswith("Mine: ")
    assert live == ["strategies"]
    assert catalogue.one("strategies", "mine")["file"] == "strategies/mine.py"
    assert live == ["strategies"] * 2
    assert catalogue.one("strategies", "lander")["strategy"] == "lander"
    assert live == ["strategies"] * 2


def test_a_built_in_strategy_that_was_changed_is_read_live(live: list[str]) -> None:
    source = built_in_files()["finetune"].read_text(encoding="utf-8")
    Path("strategies/finetune.py").write_text(source.replace('"""', '"""Changed: ', 1), encoding="utf-8")
    row = catalogue.one("strategies", "finetune")
    assert row["what"].startswith("Changed: ")
    assert row["file"] == "strategies/finetune.py"
    assert live == ["strategies"]


def test_a_copy_by_another_name_is_told_by_its_own(live: list[str]) -> None:
    shutil.copy(built_in_files()["lander"], "strategies/second.py")
    rows = {row["strategy"]: row for row in catalogue.rows("strategies")}
    assert rows["second"] == {**rows["lander"], "strategy": "second"}
    assert catalogue.one("strategies", "second")["file"] == "strategies/second.py"
    assert live == []


def test_a_strategy_that_does_not_load_and_an_unknown_name_are_one_line() -> None:
    Path("strategies/broken.py").write_text("import nothing_of_this_name", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"strategies/broken\.py.* does not load: ModuleNotFoundError"):
        catalogue.rows("strategies")
    with pytest.raises(ConfigError, match=r'unknown synthesizer "nayr".*Did you mean "nayer"'):
        catalogue.one("synthesizers", "nayr")


def test_nets_are_read_live_where_a_file_of_them_was_changed(live: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "source_digest", lambda text: "another")
    assert catalogue.rows("nets")[0]["net"] == "resnet8"
    assert live == ["nets"]
    assert catalogue.one("nets", "mlp")["net"] == "mlp"
    assert live == ["nets", "nets"]


def test_an_unknown_net_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r'unknown net "resnet9".*Did you mean "resnet8"'):
        catalogue.one("nets", "resnet9")
