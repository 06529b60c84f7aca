"""What a round costs beside training: ours in process and on Ray, and Flower's own simulation, in turns.

    python tests/benchmarks/idle_round.py [--net resnet18] [--clients 10] [--rounds 4] [--repeats 7]
                                          [--other PATH/TO/OTHER/CHECKOUT] [--only inprocess ray flower ray-alone]

Clients train nothing. Ours load the weights into their net and answer with what it holds, as after the last step of
their training; those of Flower (FedAvg, `flwr.simulation.run_simulation`) read the weights and send them back, and
`ray-alone` is the same on Ray without any engine, its floor. A
process for each of them plays a few rounds at its turn and waits at the others', so that whatever else the machine
does falls on all of them alike. The time of a round is that from its beginning to that of the next: everything is in
it but evaluation and checkpoints, of which Flower's round has none. Printed are the median seconds of a round,
the processor seconds of a round of all its processes together, and the median ratios of a turn to Flower's at that
turn, and to the other checkout's; and what the copies alone take: into the net, once over it to see that its numbers
are finite, and into the sum.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

HERE = Path(__file__).resolve().parent
OURS = """
import io, sys
from rich.console import Console
import fcil
from turns import tell
try:
    fcil.run(sys.argv[1], out=sys.argv[2], console=Console(file=io.StringIO()))
except EOFError:
    pass
"""
PLAIN = "import sys, {0}; {0}.play(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"


class Turn(NamedTuple):
    """Seconds of a round: median of the wall clock's, mean of the processors'."""

    wall: float
    processor: float


class Player:
    """A process that plays rounds when it is its turn."""

    def __init__(
        self, name: str, checkout: Path, program: str, *arguments: object, python: str = sys.executable
    ) -> None:
        self.name = name
        read, write = os.pipe()
        environment = {**os.environ, "PYTHONPATH": f"{checkout}:{HERE}", "OMP_NUM_THREADS": "1", "TURNS": str(write)}
        environment["RAY_worker_niceness"] = "0"  # else a busy machine gives workers next to nothing, unlike the driver
        environment |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  read when the process has ended
        self._process = subprocess.Popen(
            [python, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=self._errors,
            stderr=self._errors,
            text=True,
            env=environment,
            pass_fds=[write],
            cwd=checkout,  # which comes before the path
        )
        os.close(write)
        self._told = os.fdopen(read)

    def play(self, rounds: int) -> Turn:
        """Play so many rounds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{rounds}\n")
        self._process.stdin.flush()
        line = self._told.readline()
        if not line:
            self._errors.seek(0)
            raise SystemExit(f"{self.name} has ended:\n{self._errors.read()[-4000:]}")
        told = json.loads(line)
        return Turn(statistics.median(told["walls"]), told["processor"])

    def end(self) -> None:
        """Let it end by itself, and its Ray with it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()


def experiment(folder: Path, net: str, clients: int, rounds: int, backend: str) -> Path:
    federation = {"clients": clients, "rounds": rounds, "backend": backend, "stop_after": 1}
    federation |= {"evaluate_every": 0, "checkpoint_every": 0}
    settings = {"name": "idle", "data": {"dataset": "digits", "tasks": 5}, "federation": federation}
    settings |= {"net": {"name": net}, "resources": {"device": "cpu"}}
    settings |= {"strategy": str(HERE / "idle_clients.py")}
    path = folder / f"{backend}.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def players(folder: Path, given: argparse.Namespace) -> dict[str, Player]:
    rounds = given.rounds * (given.repeats + 1) + 1
    made: dict[str, Player] = {}
    checkouts = {"": HERE.parents[1]} | ({" of the other checkout": given.other.resolve()} if given.other else {})
    for backend in ("inprocess", "ray"):
        for whose, checkout in checkouts.items() if backend in given.only else ():
            name, out = f"{backend}{whose}", folder / f"{backend}{whose}".replace(" ", "-")
            source = experiment(folder, given.net, given.clients, rounds, backend)
            made[name] = Player(name, checkout, OURS, source, out)
    for name in ("flower", "ray-alone"):
        if name in given.only:
            program = PLAIN.format("idle_" + name.removesuffix("-alone"))
            made[name] = Player(name, HERE.parents[1], program, given.net, given.clients, rounds)
    return made


def floor(name: str) -> tuple[int, float]:
    """Bytes of a net's weights, and the processor seconds for the three passes that a client's weights take."""
    from idle_flower import net_of

    torch.set_num_threads(1)
    sent = [t for t in net_of(name).state_dict().values() if t.is_floating_point()]
    net, total = ([t.clone() for t in sent] for _ in range(2))
    seconds = []
    for _ in range(15):
        began = time.process_time()
        torch._foreach_copy_(net, sent)
        torch._foreach_norm(net, 2)
        torch._foreach_add_(total, net, alpha=0.5)
        seconds.append(time.process_time() - began)
    return sum(t.nbytes for t in sent), statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=4, help="rounds of a turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each")
    parser.add_argument("--other", type=Path, help="another checkout, to play the same rounds")
    parser.add_argument("--only", nargs="+", default=["inprocess", "ray", "flower", "ray-alone"])
    given = parser.parse_args()
    turns: dict[str, list[Turn]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = players(Path(folder), given)
        try:
            for repeat in range(given.repeats + 1):
                order = list(made.values())
                for player in order if repeat % 2 else reversed(order):
                    turn = player.play(given.rounds)
                    if repeat:  # the first turn warms up
                        turns.setdefault(player.name, []).append(turn)
        finally:
            for player in made.values():
                player.end()
    report({name: turns[name] for name in made}, given)


def report(turns: dict[str, list[Turn]], given: argparse.Namespace) -> None:
    packages = ", ".join(f"{name} {version(name)}" for name in ("flwr", "ray", "torch", "numpy"))
    bytes_, seconds = floor(given.net)
    print(f"command: python {shlex.join([str(Path(sys.argv[0])), *sys.argv[1:]])}")
    print(f"machine: {os.cpu_count()} cores, {processor()}; load {os.getloadavg()[0]:.1f}")
    print(f"versions: Python {platform.python_version()}, {packages}")
    print(f"{given.net}, {bytes_ / 1e6:.0f} MB, {given.clients} idle clients, {given.repeats} turns of {given.rounds}")
    print(f"floor: {1000 * seconds:.1f} ms of a processor for a client's three passes at the speed of memory")
    print(f"{'round':<32}{'wall s':>10}{'cpu s':>10}{'wall/flower':>13}{'cpu/flower':>13}{'wall/other':>13}")
    for name, mine in turns.items():
        walls, cpus = (statistics.median(column) for column in zip(*mine, strict=True))
        flower, other = turns.get("flower"), turns.get(f"{name} of the other checkout")
        ratios = [_ratio(mine, flower, 0), _ratio(mine, flower, 1), _ratio(mine, other, 0)]
        print(f"{name:<32}{walls:>10.3f}{cpus:>10.3f}" + "".join(f"{ratio:>13}" for ratio in ratios))


def _ratio(mine: list[Turn], theirs: list[Turn] | None, column: int) -> str:
    """The median ratio of turns that were next to each other."""
    if theirs is None:
        return ""
    return f"{statistics.median(a[column] / b[column] for a, b in zip(mine, theirs, strict=True)):.3f}"


def processor() -> str:
    """Name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names: list[Any] = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
