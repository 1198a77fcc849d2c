"""Giving a run's models and data on: folders with cards, as they are pushed to the Hugging Face Hub."""
