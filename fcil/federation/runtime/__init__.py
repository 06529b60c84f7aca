"""Process environment of user code: workers, signals, time, isolation."""
