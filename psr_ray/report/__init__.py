"""What a run came to: figures, alarms, the terminal, the report, its status."""
