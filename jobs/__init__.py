"""Entry points for `ray job submit`, and the job that made the embedded base model."""
