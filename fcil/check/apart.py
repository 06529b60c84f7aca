"""A run of a strategy in a process of its own, where sets have another order: begun at once, asked for later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcil.check.trials import Trials
from fcil.federation.plan import Plan, from_json

HASH_SEED = "20"
"""Hash seed of the other process, which orders its sets; in this one it is drawn when it starts."""
PATIENCE = 300
"""Seconds for the run."""


@dataclass
class Apart:
    """Process that plays the run, and the folder that its answer comes to."""

    folder: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def begin(cls, folder: Path, plan: Plan) -> Apart:
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "fcil.check.apart", str(folder)]
        return cls(
            folder,
            subprocess.Popen(
                command,
                env={**os.environ, "PYTHONHASHSEED": HASH_SEED},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ),
        )

    def outcome(self) -> dict[str, Any]:
        """Return the same as `Played.outcome`, once the process has ended."""
        code = self.process.wait(PATIENCE)
        answer = self.folder / "outcome.json"
        if not answer.is_file():
            return {"problem": f"the other process ended with exit code {code} and without an answer"}
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _play_apart(folder: Path) -> None:
    plan = from_json((folder / "plan.json").read_text(encoding="utf-8"))
    with Trials(folder) as stage:
        outcome = stage.play("run", plan).outcome()
    partial = folder / "outcome.partial"
    partial.write_text(json.dumps(outcome), encoding="utf-8")
    partial.replace(folder / "outcome.json")


if __name__ == "__main__":
    _play_apart(Path(sys.argv[1]))
