"""A run's work and cost, from its config: work, memory, time and money (docs/planning.md)."""
