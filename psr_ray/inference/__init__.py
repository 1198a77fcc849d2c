"""vLLM: an engine that drives thousands of tasks, and what is done where one dies."""
