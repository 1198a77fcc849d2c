"""vLLM: an engine that drives thousands of tasks, and the rows that they write."""
