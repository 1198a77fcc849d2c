"""Seeing a run from outside: Ray's counters, structured logs, traces of searches."""
