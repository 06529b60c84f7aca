"""What surrounds the code of users in a process: workers, signals, time, isolation."""
