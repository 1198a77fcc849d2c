"""The step search and its judging as coroutines (arXiv 2503.03746, section 3). No engine, no I/O."""
