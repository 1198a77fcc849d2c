"""The embedded problems: seeded arithmetic told in words, whose every step can be graded."""
