"""Export of a run's models and data: folders with cards, ready for the Hugging Face Hub."""
