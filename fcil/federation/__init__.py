"""The Flower app: server, clients, and the places to run them. Only here are flwr and Ray imported."""

import os

# Read by flwr and Ray when they are imported: no telemetry, no usage report, no update check.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
