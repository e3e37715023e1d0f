"""Folders of the published figures, tables and pictures."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"  # figures as JSON
PAGES = ROOT / "docs" / "results"  # pages of the documentation
PICTURES = ROOT / "docs" / "pictures"
