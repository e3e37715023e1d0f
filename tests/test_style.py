"""Limits of structure and language: `tools/measure_style.py` and the glossary."""

import re
from pathlib import Path

import pytest

from tools.measure_style import Figure, measure

ROOT = Path(__file__).parent.parent
FIGURES = measure(ROOT)
# Private words of version 0.1 and their standard terms in docs/glossary.md.
REPLACED = {
    "tonight": "dashboard",
    "diary": "arrival history",
    "postbox": "SMTP connection",
    "likeness": "similarity",
    "patience": "retry policy",
    "troubles": "issues",
    "portrait": "extension figures",
    "runtime": "project",
}
TEXT_FILES = [
    path
    for folder in ("qc", "embeddings")
    for suffix in ("*.py", "*.j2", "*.js", "*.css", "*.toml", "*.yaml")
    for path in sorted((ROOT / folder).rglob(suffix))
    if path.stem != "legacy"
]
INTERFACE_NAMES = re.compile(  # former address and a field of the REST interface, kept
    r'"(/tonight|troubles)"|\btroubles( ?[:=]|=read_issues)|dashboard\.troubles'
)
BOUNDARY_WORDS = re.compile(rf"(?<![a-z])({'|'.join(REPLACED)})(?![a-z])", re.IGNORECASE)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_figure_is_within_limit(figure: Figure):
    assert figure.is_within_limit, f"{figure.name}: {figure.value:.1f}, limit {figure.limit:g}"


@pytest.mark.parametrize("path", TEXT_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_contains_no_replaced_word(path):
    """A replaced word of the glossary appears nowhere in the shipped files."""
    text = INTERFACE_NAMES.sub("", path.read_text())
    found = {match.group(1).lower() for match in BOUNDARY_WORDS.finditer(text)}
    assert not found, {word: REPLACED[word] for word in found}
