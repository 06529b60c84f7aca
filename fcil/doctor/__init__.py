"""`fcil doctor`: is this machine fit for runs, and for an experiment? Nothing is written or downloaded."""

from __future__ import annotations

from fcil.doctor.experiment import examine
from fcil.doctor.finding import Finding
from fcil.doctor.machine import machine

__all__ = ["Finding", "examine", "machine"]
