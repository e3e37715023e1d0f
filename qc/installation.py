"""Where the files that travel with the program lie."""

from importlib import resources
from pathlib import Path


def shipped(name: str) -> Path:
    """Return a file or folder that came with the program: inside its wheel, or in its checkout."""
    package = Path(str(resources.files("qc")))
    inside = package / name
    return inside if inside.exists() else package.parent / name
