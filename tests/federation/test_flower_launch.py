"""The launcher of Flower's own engines: what it tells them, how it ends, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from grid_cases import plan_of
from small_runs import play, write_experiment

from fcil import flower
from fcil.cli import main
from fcil.errors import TrainingError
from fcil.federation.deploy.credentials import make_credentials
from fcil.federation.deploy.processes import Processes
from fcil.federation.deploy.superlink import Status, SuperLink, environment, free_ports, toml
from fcil.federation.flower_app import split
from fcil.federation.runtime.watcher import Watcher, marked
from fcil.federation.runtime.watcher import end as end_marked

# The launcher ----------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `python -m fcil.flower ...` in this process; what would start Flower is replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def launch(*arguments: object, instead: Any = None) -> tuple[int, str, str]:
        def nothing(*_: Any, **__: Any) -> None:
            pytest.fail("something was started")

        monkeypatch.setattr(flower, "_run", instead or nothing)
        monkeypatch.setattr(sys, "argv", ["fcil.flower", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main(flower.cli)
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err  # type: ignore[return-value]

    return launch


@pytest.mark.parametrize("verb", ["simulate", "deploy"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.yaml"], "nothing.yaml: no such file"),
        (["tiny.yaml", "strategy=landr"], 'Did you mean "lander"?'),
        (["tiny.yaml", "data.dataset=image_folder", "data.root=nowhere"], "nowhere"),
        (["tiny.yaml", "--out", "tiny.yaml"], "tiny.yaml"),
    ],
)
def test_a_users_mistake_is_one_line_before_anything_is_started(
    launched: Any, tmp_path: Path, verb: str, arguments: list[str], said: str
) -> None:
    write_experiment(tmp_path)
    code, out, err = launched(verb, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not (tmp_path / "results").exists()


def test_a_finished_experiment_starts_nothing(launched: Any, tmp_path: Path) -> None:
    source = write_experiment(tmp_path)
    play(source, out=tmp_path / "results")
    code, out, err = launched("deploy", source)
    assert (code, err) == (0, "")
    assert out.count("is finished; nothing to do") == 1


def test_a_run_that_flower_calls_completed_and_is_not_finished_has_failed(launched: Any, tmp_path: Path) -> None:
    code, _, err = launched("simulate", write_experiment(tmp_path), instead=lambda *_, **__: None)
    assert code == 1
    assert "Flower calls the run completed, but results/tiny/finetune-" in err
    assert err.count("\n") == 1


def test_an_interrupted_launcher_says_so(launched: Any, tmp_path: Path) -> None:
    def stop(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    code, _, err = launched("simulate", write_experiment(tmp_path), instead=stop)
    assert code == 130
    assert err == "interrupted; the same command goes on from the last checkpoint\n"


def test_what_is_launched_is_told_where_things_are(launched: Any, tmp_path: Path) -> None:
    told: list[Any] = []

    def finish(plans: Any, config: dict[str, str], console: Any, *, nodes: bool, tls: bool) -> None:
        told.append((len(plans), config, nodes, tls))
        play(tmp_path / "tiny.yaml", *split(config["overrides"]), out=Path(config["out"]))

    write_experiment(tmp_path, seeds=[3, 4])
    arguments = ["tiny.yaml", "federation.rounds=1", "net={name: resnet8, width: 2}", "--out", "there", "--tls"]
    assert launched("deploy", *arguments, instead=finish)[0] == 0
    overrides = "federation.rounds=1 'net={name: resnet8, width: 2}'"
    config = {"experiment": str(tmp_path / "tiny.yaml"), "overrides": overrides, "out": str(tmp_path / "there")}
    assert told == [(2, config, True, True)]


def test_the_simulation_is_as_large_as_the_federation(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    expected = {"num-supernodes": 3, "client-resources-num-cpus": 1, "client-resources-num-gpus": 0.0}
    assert flower._simulation(3, plan.resources) == expected
    limited = replace(plan.resources, workers=2)
    assert flower._simulation(3, limited) == {**expected, "init-args-num-cpus": 2}
    assert "init-args-num-cpus" not in flower._simulation(3, replace(limited, ray_address="auto"))


# A SuperLink -----------------------------------------------------------------------------------


def test_a_value_arrives_in_toml_as_it_was() -> None:
    values = {"a": 'x "y" \\ \n\t', "b": "ä 🎉 \x01", "c": "{strategy: {./my file.py: {a: 1}}}", "d": ""}
    assert tomllib.loads(toml(values)) == values


class FakeProcesses(Processes):
    """Answers for the `flwr` command."""

    def __init__(self, folder: Path, *answers: tuple[int, str]) -> None:
        super().__init__(folder, {})
        self.answers, self.commands = list(answers), list[list[str]]()

    def call(self, command: Any, environment: Any, seconds: float = 0.0) -> tuple[int, str]:
        self.commands.append(list(command))
        return self.answers.pop(0)

    def follow(self, command: Any, environment: Any) -> subprocess.Popen[bytes]:
        return super().follow([sys.executable, "-c", "print('Using SuperLink: x'); print('[TASK 1/2]')"], environment)


def listed(status: str, details: str = "N/A") -> tuple[int, str]:
    return 0, "warning\n" + json.dumps({"success": True, "runs": [{"status": status, "status-details": details}]})


def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:
    shown: list[str] = []
    link = SuperLink(FakeProcesses(tmp_path, listed("running"), listed("finished:completed")), 1)
    link.follow("7", shown.append)
    assert shown == ["[TASK 1/2]"]


@pytest.mark.parametrize("where", ["ServerApp", "Simulation"])
def test_a_run_that_failed_says_why(tmp_path: Path, where: str) -> None:
    answer = listed("finished:failed", f"{where} failed with exception: client 1: ValueError: on purpose")
    with pytest.raises(TrainingError, match=r"^client 1: ValueError: on purpose$"):
        SuperLink(FakeProcesses(tmp_path, answer), 1).follow("7", lambda line: None)


def test_a_run_that_was_stopped_has_failed(tmp_path: Path) -> None:
    link = SuperLink(FakeProcesses(tmp_path, listed("finished:stopped"), listed("finished:stopped")), 1)
    assert link.status("7") == Status(True, False, "the run was stopped")
    with pytest.raises(TrainingError, match="the run was stopped"):
        link.follow("7", lambda line: None)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((1, '{"success": false, "error-message": "no\\nroom"}'), "flwr run: no room"),
        ((1, "Traceback: boom"), "flwr run: Traceback: boom"),
        ((0, "nothing"), "flwr run: nothing"),
        ((0, '{"success": false}'), "flwr run"),
    ],
)
def test_a_command_of_flowers_that_refuses_is_told_in_one_line(
    tmp_path: Path, answer: tuple[int, str], said: str
) -> None:
    with pytest.raises(TrainingError) as caught:
        SuperLink(FakeProcesses(tmp_path, answer), 1).submit({})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_submitted_holds_the_run_config(tmp_path: Path) -> None:
    processes = FakeProcesses(tmp_path, (0, '{"success": true, "run-id": "12"}'))
    assert SuperLink(processes, 1).submit({"experiment": 'a "b".yaml', "out": "x"}, {"num-supernodes": 2}) == "12"
    config = tomllib.loads((tmp_path / "app/pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert config == {"experiment": 'a "b".yaml', "out": "x"}
    assert processes.commands[0][-4:] == ["--federation-config", "num-supernodes=2", "--format", "json"]


def test_flower_is_told_to_join_nobody_and_report_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    seen = environment()
    assert seen["RAY_ADDRESS"] == "local"
    assert environment("auto")["RAY_ADDRESS"] == "auto"
    assert seen["NO_PROXY"] == "example.org,127.0.0.1,localhost"
    assert seen["PATH"].startswith(str(Path(sys.executable).parent))
    off = [v for k, v in seen.items() if k in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED")]
    assert off == ["0", "0"]
    assert seen["FLWR_DISABLE_UPDATE_CHECK"] == seen["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


def test_free_ports_differ() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", ports[0]))


# Processes -------------------------------------------------------------------------------------

FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("started", flush=True)
time.sleep(600)
"""


def wait_for(mark: str, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(marked(mark)) != count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(marked(mark)) == count


def test_all_that_was_started_ends_with_the_context(tmp_path: Path) -> None:
    """Children of children in sessions of their own as well."""
    processes = Processes(tmp_path, {"A": "b"})

    def interrupted() -> None:
        with processes:
            processes.start("family", [sys.executable, "-c", FAMILY], {})
            wait_for(processes.mark, 2)
            assert all(process.environ()["A"] == "b" for process in marked(processes.mark))
            deadline = time.monotonic() + 60
            while not (tmp_path / "family.log").read_text() and time.monotonic() < deadline:
                time.sleep(0.05)  # its child is there before it says so
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert marked(processes.mark) == []
    assert (tmp_path / "family.log").read_text() == "started\n"


def test_all_that_was_started_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    parent = f"""
import sys, time
from pathlib import Path
from fcil.federation.deploy.processes import Processes
with Processes(Path({str(folder)!r}), {{}}) as processes:
    processes.start("family", [sys.executable, "-c", {FAMILY!r}], {{}})
    print(processes.mark, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        mark = process.stdout.readline().strip()
        wait_for(mark, 2)
        process.kill()
    wait_for(mark, 0)
    deadline = time.monotonic() + 20
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()


def test_a_process_within_another_is_found_by_the_marks_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on Flower starts Ray: whichever of the two ends, what Ray has started ends."""
    outer = Watcher()
    monkeypatch.setenv(*next(iter(outer.environment.items())))
    inner = Watcher()
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(sleep, env={**os.environ, **inner.environment}) as process:
        for watcher in (outer, inner):
            wait_for(watcher.mark, 1)
            assert [found.pid for found in marked(watcher.mark)] == [process.pid]
        end_marked(outer.mark)
    assert marked(outer.mark) == []
    assert marked(inner.mark) == []


TALKATIVE = r"""
print("INFO: starting\n\x1b[91mERROR \x1b[0m: no room\nwhatsoever\nINFO: ending")
exit(3)
"""


def test_a_process_that_ends_too_early_is_quoted(tmp_path: Path) -> None:
    with Processes(tmp_path, {}) as processes:
        processes.start("super node", [sys.executable, "-c", TALKATIVE], {})
        processes._running["super node"].wait()
        with pytest.raises(TrainingError, match=r"^super node ended with exit code 3: ERROR : no room whatsoever$"):
            processes.check()


def test_a_command_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    with Processes(tmp_path, {}) as processes:
        assert processes.call([sys.executable, "-c", "print('x'); exit(4)"], {}) == (4, "x\n")
        with pytest.raises(TrainingError, match=r"did not end within 0\.1 seconds"):
            processes.call([sys.executable, "-c", "import time; time.sleep(60)"], {}, seconds=0.1)


# Keys ------------------------------------------------------------------------------------------


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A TLS handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for end in ends * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue


def test_the_servers_certificate_is_known_by_its_authority_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    keys, others = make_credentials(tmp_path), make_credentials(tmp_path / "other")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(keys.certificate, keys.key)
    for name in ("127.0.0.1", "localhost"):
        handshake(server, ssl.create_default_context(cafile=keys.authority), name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, ssl.create_default_context(cafile=others.authority), "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, ssl.create_default_context(cafile=keys.authority), "example.org")


def test_the_keys_of_a_node_are_a_pair_that_nobody_else_may_read(tmp_path: Path) -> None:
    private, public = make_credentials(tmp_path).node("node0")
    pair, known = load_ssh_private_key(private.read_bytes(), None), load_ssh_public_key(public.read_bytes())
    assert pair.public_key() == known
    assert private.stat().st_mode & 0o077 == 0
