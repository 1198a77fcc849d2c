"""psr-ray: process-based self-rewarding for language models, as a distributed Ray application."""

__version__ = "0.1.0"
