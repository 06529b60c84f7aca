"""A private SuperLink on this machine: started, given nodes and an app, and asked for the status of the run.

Only Flower's commands are used. Their defaults that are not followed here: join a SuperLink or a
Ray cluster that happens to run, install dependencies anew for each run, send telemetry, listen on
addresses others can reach, and call a failed run a success.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from fcil.errors import TrainingError, printable
from fcil.federation.deploy.credentials import Credentials
from fcil.federation.deploy.processes import Processes

HOST = "127.0.0.1"
NAME = "fcil"
"""Name of the connection, in the configuration of the `flwr` command."""
PATIENCE = 120.0
"""Seconds until a SuperLink must have started."""
LOOK_AGAIN = 30.0
"""Seconds between two looks at a run that goes on telling."""
CHATTER = ("Using SuperLink: ", "Successfully installed ")
"""Beginnings of Flower's log lines that are dropped."""
APP = """[project]
name = "fcil"
version = "0.1.0"
description = "Federated class-incremental learning"
license = "Apache-2.0"
dependencies = ["flwr>=1.41"]

[tool.flwr.app]
publisher = "fcil"

[tool.flwr.app.components]
serverapp = "fcil.flower:server"
clientapp = "fcil.federation.flower_app:client"

[tool.flwr.app.config]
"""
"""App without code: all participants have the package."""


def environment(ray_address: str | None = None) -> dict[str, str]:
    """Return the environment of Flower's commands: this process's own, and more."""
    commands = str(Path(sys.executable).parent)  # Flower's commands find each other by name
    direct = [*filter(None, os.environ.get("NO_PROXY", "").split(",")), HOST, "localhost"]
    return {
        "PATH": os.pathsep.join([commands, os.environ.get("PATH", "")]),
        "NO_PROXY": ",".join(direct),
        "no_proxy": ",".join(direct),
        "PYTHONUNBUFFERED": "1",  # what a run tells is to be seen at once
        "FLWR_LOG_LEVEL": "ERROR",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Without it Flower joins a cluster that happens to run on this machine.
        "RAY_ADDRESS": ray_address or "local",
    }


def free_ports(count: int) -> list[int]:
    """Return free ports; all of them are held until the last is found, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in sockets]


@dataclass(frozen=True)
class Status:
    """Status of a run in Flower."""

    ended: bool
    completed: bool
    details: str


@dataclass(frozen=True)
class SuperLink:
    """A SuperLink among processes.

    Args:
        port: a free one.
        credentials: for TLS, and for nodes that must be registered; None without both.
    """

    processes: Processes
    port: int
    credentials: Credentials | None = None

    @property
    def home(self) -> Path:
        return self.processes.folder / "superlink"

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self, *, simulation: bool = False) -> None:
        """Start it and wait until it answers.

        Raises:
            TrainingError: it does not.
        """
        self.home.mkdir()
        connection = {"address": self.address}
        command = ["flower-superlink", "--host", HOST, "--port", str(self.port)]
        command += ["--disable-runtime-dependency-installation"]
        if simulation:
            command += ["--simulation"]
        if self.credentials is None:
            command += ["--insecure"]
            insecure = "insecure = true\n"
        else:
            keys = self.credentials
            command += ["--ssl-ca-certfile", str(keys.authority), "--ssl-certfile", str(keys.certificate)]
            command += ["--ssl-keyfile", str(keys.key), "--enable-supernode-auth"]
            connection["root-certificates"] = str(keys.authority)
            insecure = ""
        text = f'[superlink]\ndefault = "{NAME}"\n\n[superlink.{NAME}]\n{toml(connection)}{insecure}'
        (self.home / "config.toml").write_text(text, encoding="utf-8")
        self.processes.start("superlink", command, self._home)
        self._wait()

    def _wait(self) -> None:
        trusted = None if self.credentials is None else ssl.create_default_context(cafile=self.credentials.authority)
        scheme = "http" if trusted is None else "https"
        handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)]
        opener = urllib.request.build_opener(*handlers)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.processes.check()
            with contextlib.suppress(urllib.error.URLError, OSError):
                opener.open(f"{scheme}://{self.address}/health", timeout=5).close()
                return
            time.sleep(0.2)
        raise TrainingError(f"superlink did not answer within {PATIENCE:g} seconds")

    def start_node(self, client: int, clients: int, port: int, *, registered: bool = True) -> None:
        """Start a SuperNode that plays a client, after its key was registered."""
        name = f"supernode {client}"
        home = self.processes.folder / f"supernode-{client}"  # of its own: nodes unpack the app without a lock
        home.mkdir()
        command = ["flower-supernode", "--superlink", self.address, "--host", HOST, "--port", str(port)]
        command += ["--node-config", f"partition-id={client} num-partitions={clients}"]
        if self.credentials is None:
            command += ["--insecure"]
        else:
            private, public = self.credentials.node(f"node{client}")
            if registered:
                self._ask("supernode", "register", str(public), NAME)
            command += ["--root-certificates", str(self.credentials.authority)]
            command += ["--auth-supernode-private-key", str(private)]
        self.processes.start(name, command, {"FLWR_HOME": str(home)})

    def submit(self, config: Mapping[str, str], simulation: Mapping[str, int | float] | None = None) -> str:
        """Start a run of the app with this run config; its number.

        Args:
            simulation: settings of a simulated federation.
        """
        app = self.processes.folder / "app"
        app.mkdir(exist_ok=True)
        (app / "pyproject.toml").write_text(APP + toml(config), encoding="utf-8")
        options = [f"{key}={value}" for key, value in (simulation or {}).items()]
        given = ["--federation-config", " ".join(options)] if options else []
        return str(self._ask("run", str(app), NAME, *given)["run-id"])

    def follow(self, run: str, show: Callable[[str], None]) -> None:
        """Show what a run tells, line by line, until it has ended.

        Raises:
            TrainingError: it failed or was stopped, or a process that it needs has ended.
        """
        telling = self.processes.follow(["flwr", "log", run, NAME], self._home)
        reader = Thread(target=_read, args=(telling, show), daemon=True)
        reader.start()
        looked = time.monotonic()
        while True:
            time.sleep(0.2)
            self.processes.check()
            if telling.poll() is not None or time.monotonic() > looked + LOOK_AGAIN:
                status, looked = self.status(run), time.monotonic()
                if status.ended:
                    break
        reader.join(timeout=LOOK_AGAIN)  # what was told last may still be on its way
        telling.kill()
        telling.wait()
        if not status.completed:
            raise TrainingError(status.details)

    @property
    def _home(self) -> dict[str, str]:
        return {"FLWR_HOME": str(self.home)}

    def status(self, run: str) -> Status:
        (row,) = self._ask("list", NAME, "--run-id", run)["runs"]
        stage, _, how = str(row["status"]).partition(":")
        details = "the run was stopped" if how == "stopped" else str(row["status-details"])
        for prefix in ("ServerApp failed with exception: ", "Simulation failed with exception: "):
            details = details.removeprefix(prefix)
        return Status(stage == "finished", how == "completed", details)

    def _ask(self, *words: str) -> dict[str, Any]:
        """Return the answer of a `flwr` command.

        Raises:
            TrainingError: it refuses, or answers something else.
        """
        code, text = self.processes.call(["flwr", *words, "--format", "json"], self._home)
        try:
            answer = json.loads(text[text.index("{") :])
        except ValueError:
            answer = {}
        if code or not isinstance(answer, dict) or not answer.get("success"):
            why = answer.get("error-message") if isinstance(answer, dict) else None
            raise TrainingError(f"flwr {words[0]}: {printable(str(why or text[-500:]))}")
        return answer


def _read(telling: subprocess.Popen[bytes], show: Callable[[str], None]) -> None:
    for line in telling.stdout or ():
        text = line.decode(errors="replace").rstrip("\n")
        if not text.startswith(CHATTER):
            show(text)


def toml(values: Mapping[str, str]) -> str:
    """Lines of a TOML table. JSON's strings are TOML's, as long as no character is written as two."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
