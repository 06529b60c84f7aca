"""A run folder as an RO-Crate: whole, linked, and what the profiles demand."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, assert_refused
from small_runs import play, write_experiment

from fcil.evaluation import export
from fcil.evaluation.crate import FEDERATED, METADATA, PROCESS, SPECIFICATION
from fcil.store import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("crate")
    return play(write_experiment(folder), out=folder)[0]


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """A copy of the run's folder, to be changed."""
    return Path(shutil.copytree(run.path, tmp_path / Path(*run.path.parts[-3:])))


def graph(path: Path) -> dict[str, dict[str, Any]]:
    """The entities of a crate by their identifiers, which are unique."""
    with zipfile.ZipFile(path) as crate:
        found = json.loads(crate.read(METADATA))
    assert found["@context"] == f"{SPECIFICATION}/context"
    entities = {entity["@id"]: entity for entity in found["@graph"]}
    assert len(entities) == len(found["@graph"])
    return entities


def links(value: object) -> set[str]:
    """What a value of an entity refers to."""
    if isinstance(value, dict):
        return {value["@id"]}
    return {link for item in value for link in links(item)} if isinstance(value, list) else set()


def test_a_crate_holds_every_file_that_it_tells_of_and_no_other(run: Run, tmp_path: Path) -> None:
    path = export(run.path, "ro-crate", out=tmp_path / "run.zip")
    entities = graph(path)
    files = {name for name, entity in entities.items() if entity["@type"] == "File"}
    with zipfile.ZipFile(path) as crate:
        assert set(crate.namelist()) == {METADATA, *files}
        assert crate.read("accuracy.csv") == (run.path / "accuracy.csv").read_bytes()
        assert all(entities[name]["contentSize"] == str(len(crate.read(name))) for name in files)
    assert {"config.yaml", "strategy.py", "net.safetensors", "env.json"} <= files
    assert files | {"#data"} == links(entities["./"]["hasPart"])


def test_every_reference_of_a_crate_leads_to_an_entity(run: Run, tmp_path: Path) -> None:
    entities = graph(export(run.path, "ro-crate", out=tmp_path / "run.zip"))
    referred = {link for entity in entities.values() for value in entity.values() for link in links(value)}
    outside = {SPECIFICATION, "http://schema.org/CompletedActionStatus"}
    assert referred - set(entities) == outside
    assert set(entities) - referred == {METADATA}


def test_a_crate_has_what_specification_and_profiles_demand(run: Run, tmp_path: Path) -> None:
    entities = graph(export(run.path, "ro-crate", out=tmp_path / "run.zip"))
    root, action, about = entities["./"], entities["#run"], entities[METADATA]
    assert (about["@type"], about["about"], about["conformsTo"]) == (
        "CreativeWork",
        {"@id": "./"},
        {"@id": SPECIFICATION},
    )
    assert {"name", "description", "datePublished", "license"} <= set(root)
    assert links(root["conformsTo"]) == {PROCESS, FEDERATED}
    assert links(root["mentions"]) == {"#run"}
    assert (action["@type"], entities["#fcil"]["@type"]) == ("CreateAction", "SoftwareApplication")
    assert links(action["instrument"]) == {"#fcil"}
    assert {"config.yaml", "strategy.py", "partition.json", "#data"} == links(action["object"])
    assert {"net.safetensors", "accuracy.csv", "#final_accuracy"} <= links(action["result"])
    assert root["mainEntity"] == {"@id": "net.safetensors"}
    assert action["startTime"] <= action["endTime"] == root["datePublished"]
    assert entities["#final_accuracy"]["value"] == run.summary["final_accuracy"]
    assert all(e["propertyID"] for e in entities.values() if e["@type"] == "PropertyValue")


def test_the_same_run_gives_the_same_bytes_and_without_a_net_no_federated_profile(copy: Path) -> None:
    first = export(copy, "ro-crate")
    assert first == copy / "exports" / "ro-crate.zip"
    before = first.read_bytes()
    assert export(copy, "ro-crate").read_bytes() == before
    (copy / "net.safetensors").unlink()
    entities = graph(export(copy, "ro-crate"))
    assert links(entities["./"]["conformsTo"]) == {PROCESS}
    assert FEDERATED not in entities


def test_a_crate_that_cannot_be_is_refused_in_a_line(copy: Path, command: Command) -> None:
    assert_refused(command("export", copy, "--to", "ro-crate", "--task", 1), "task:", "whole run")
    assert_refused(command("export", copy, "--to", "ro-crat"), 'Did you mean "ro-crate"?')
    (copy / "env.json").write_text("[]")
    assert "env.json: expected a JSON object" in command("export", copy, "--to", "ro-crate").err
    (copy / "summary.json").unlink()
    assert_refused(command("export", copy, "--to", "ro-crate"), "finished runs", "fcil resume")
