"""README, guides, reference and results agree with the program and the figures."""

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks import scale, web
from benchmarks.detection import report as detection
from benchmarks.paths import PAGES, PICTURES, RESULTS, ROOT
from benchmarks.throughput import page as throughput
from qc.cli import main  # noqa: F401 - registers the commands
from qc.cli.options import app
from qc.settings import Settings

DOCS = ROOT / "docs"
MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^ *```(\S*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
CALL = re.compile(r"(?:sudo -u \S+ )?(?:\S*/)?qc ([a-z-].*)")
INLINE = re.compile(r"`(qc [a-z][^`\n]*)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
PICTURES_MB = 3
README_LINES, README_WORDS = 150, 900


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the words of every call of qc in code blocks and inline code."""
    blocks = [block for language, block in FENCE.findall(text) if language in {"", "sh"}]
    lines = [line for block in blocks for line in block.splitlines()]
    calls = [line.strip().removeprefix("$ ") for line in lines] + INLINE.findall(text)
    for call in calls:
        if match := CALL.match(call):
            words = match[1].partition(" #")[0].partition(" > ")[0]
            yield shlex.split(words, posix=True)


def unknown_words(words: list[str]) -> list[str]:
    """Return commands and options of a call that the program does not have."""
    command: Any = typer.main.get_command(app)
    names = list(words)
    while hasattr(command, "commands") and names and names[0] in command.commands:
        command = command.commands[names.pop(0)]
        if command.hidden:
            return words
    if hasattr(command, "commands") and names and not names[0].startswith(("-", "…")):
        return names[:1]
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    options = [word.partition("=")[0] for word in names if word.startswith("-")]
    return [option for option in options if option not in {*known, "--help"}]


@pytest.fixture(scope="module")
def reference():
    """The Sphinx extension of the generated pages."""
    path = DOCS / "_ext" / "generated_reference.py"
    spec = importlib.util.spec_from_file_location("generated_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "path", [path for path in MARKDOWN if path.parent.name != "decisions"], ids=name_of
)
def test_documented_commands_exist(path):
    wrong = {
        " ".join(words): unknown
        for words in commands_in(path.read_text())
        if (unknown := unknown_words(words))
    }
    assert wrong == {}


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_linked_files_exist(path):
    links = [link for link in LINK.findall(path.read_text()) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= README_LINES
    assert len(text.split()) <= README_WORDS


def test_readme_table_matches_figures(reference):
    text = (ROOT / "README.md").read_text()
    assert [row for row in reference.accuracy_rows() if f"| {' | '.join(row)} |" not in text] == []


def test_pictures_are_small():
    size = sum(path.stat().st_size for path in DOCS.rglob("*") if path.suffix in {".png", ".webp"})
    assert size < PICTURES_MB * 1e6


def test_settings_page_includes_example_file():
    page = DOCS / "reference" / "settings.md"
    [included] = re.findall(r"```\{literalinclude\} (\S+)", page.read_text())
    assert (page.parent / included).resolve() == ROOT / "qc" / "example.toml"


def test_settings_reference_lists_every_key(reference):
    text = reference.settings_reference()
    missing = [key for key in Settings.model_fields if not re.search(rf"`\[*{key}\]*`", text)]
    assert missing == []


def test_generated_pages_have_content(reference):
    empty = [
        name for name, generate in reference.GENERATORS.items() if name != "api" and not generate()
    ]
    assert empty == []


@pytest.mark.parametrize(
    ("figures", "page", "render"),
    [
        ("scale", "scale", scale.render),
        ("throughput", "throughput", throughput.render),
        ("pages", "pages", lambda figures: web.render(figures, "sqlite")),
        ("pages_postgresql", "pages-postgresql", lambda figures: web.render(figures, "postgresql")),
    ],
)
def test_result_page_matches_figures(figures, page, render):
    text = (PAGES / f"{page}.md").read_text()
    assert text == render(json.loads((RESULTS / f"{figures}.json").read_text()))


@pytest.mark.parametrize("name", ["detection", "detection_fresh"])
def test_detection_page_matches_figures(name):
    results = detection.read_json(RESULTS / f"{name}.json")
    text = (PAGES / f"{name.replace('_', '-')}.md").read_text()
    methods, costs = results["methods"], results["costs"]
    sections = [
        detection.product_section(results["product"]),
        detection.methods_section(methods, costs, results["not measured"]),
        detection.operation_section(costs, results),
        detection.by_type_section(methods, "auroc", "AUROC by image type"),
        detection.by_type_section(methods, "f1", "F1 at the threshold by image type"),
        detection.robustness_section(results["robustness"]),
        detection.calibration_section(results["calibration"]),
    ]
    assert [section for section in sections if section not in text] == []


def test_result_pictures_exist():
    named = {
        Path(link).name
        for path in MARKDOWN
        for link in re.findall(r"pictures/(\S+?\.(?:png|webp))", path.read_text())
    }
    assert named <= {path.name for path in PICTURES.rglob("*")}
