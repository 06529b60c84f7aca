"""Execution of plans: rehearsed, one after another or several at once, watched, logged, forecast."""
