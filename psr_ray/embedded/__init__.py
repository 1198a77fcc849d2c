"""What comes with the package: seeded arithmetic told in words, whose every step can be graded; a model
(``tiny-m0``) and the demo's config."""

from pathlib import Path

DEMO = Path(__file__).parent / "demo.yaml"
