"""What a run will do and cost, from its config: work, memory, time and money (docs/planning.md)."""
