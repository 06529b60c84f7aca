"""Synthesis of samples on the server: jobs, in this process or on workers."""
