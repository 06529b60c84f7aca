"""BibTeX of the methods of runs, from the papers that their files name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import Command
from small_runs import play, write_experiment

from fcil.config.registry import files_in
from fcil.methods.bibliography import codes, entries, paper, references
from fcil.store import Run

FILES = [file for package in ("strategies", "fcil.synthesis", "fcil.distillers") for file in files_in(package).values()]
WITHOUT = {"replay", "series"}
"""Methods that are no paper's."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("cite")
    return play(write_experiment(folder), out=folder)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}.{file.stem}")
def test_every_method_has_an_entry_with_author_and_year(file: Path) -> None:
    found = list(references(paper(file.read_text(encoding="utf-8"))))
    assert bool(found) == (file.stem not in WITHOUT)
    for reference in found:
        assert re.fullmatch(r"[a-z]+(19|20)\d\d[a-z]+", reference.key)
        assert reference.title or file.stem == "joint"


def test_a_paper_is_told_apart_into_its_parts() -> None:
    qi, tran = (
        'Qi, Zhao, Li, "Better Replay & more", ICLR 2023, arXiv:2302.13001',
        'Tran et al., "Sizes", arXiv:2411.17046',
    )
    first, second = (reference.bibtex() for reference in references(f"{qi}; {tran} (2024)"))
    assert first.splitlines() == [
        "@inproceedings{qi2023better,",
        "  author = {Qi and Zhao and Li},",
        r"  title = {{Better Replay \& more}},",
        "  booktitle = {ICLR},",
        "  year = {2023},",
        "  eprint = {2302.13001},",
        "  archiveprefix = {arXiv}",
        "}",
    ]
    assert second.startswith("@misc{tran2024sizes,\n  author = {Tran and others},")


def test_a_text_without_a_paper_has_no_entry_and_commands_of_tex_are_escaped() -> None:
    assert list(references("")) == list(references("see my thesis")) == []
    (odd,) = references(r"x \input{secret} 2020")
    assert r"\input" not in odd.bibtex()


def test_code_is_found_with_its_commit() -> None:
    assert codes('"""Code: github.com/a/b @ 0123abc, and github.com/c/d.\n"""') == [("a/b", "0123abc"), ("c/d", "")]


def test_a_synthesizer_is_cited_with_its_strategy() -> None:
    source = files_in("strategies")["lander"].read_text(encoding="utf-8")
    told = "\n".join(entries([(source, {"lander": {"radius": 1, "synthesizer": {"fast": {"steps": 2}}}})], "1.2"))
    for title in ("Text-Enhanced Data-free", "Up to 100x Faster", "Flower: A Friendly", "fcil: federated"):
        assert told.count(title) == 1


def test_runs_are_cited_and_the_end_of_a_run_says_how(runs: list[Run], command: Command, tmp_path: Path) -> None:
    said = command("cite", runs[0].path)
    assert (said.code, said.err) == (0, "")
    assert said.out.count("@") == 3
    assert "McMahan" in said.out
    experiment = write_experiment(tmp_path)
    said = command("run", experiment, "--out", tmp_path / "out")
    (folder,) = (path.parent for path in (tmp_path / "out").rglob("config.yaml"))
    assert said.out.rstrip().splitlines()[-1] == f"cite: fcil cite {folder}"
    (folder / "strategy.py").write_text("def")
    said = command("cite", folder)
    assert said.code != 0
    assert said.err.count("\n") == 1
    assert "no strategy can be read there" in said.err


def test_a_folder_without_runs_is_named(command: Command, tmp_path: Path) -> None:
    said = command("cite", tmp_path)
    assert said.code != 0
    assert said.err.count("\n") == 1
    assert "no run" in said.err
