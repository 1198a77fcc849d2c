"""The results of a run: figures, alarms, the terminal, the report, its status."""
