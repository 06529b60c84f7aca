"""`--profile`: where the time of a run went, by phase, client and task, and what to change.

pyinstrument samples the stack of the one process that plays the run; nothing of the run is instrumented, so a run
without a profile pays nothing. Each sample belongs to a phase (`phases`), a task and a client (`profiler`); tables
(`tables`), the flame graph (`flame`) and the lines on what to change (`advice`) are views of their sums (`profile`).
"""

from fcil.profiling.profile import Profile
from fcil.profiling.profiler import Profiler, check_alone

__all__ = ["Profile", "Profiler", "check_alone"]
