import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SLOW = {
    "distributed",
    "keras",
    "openvino",
    "pyarrow",
    "tensorflow",
    "weasyprint",
}  # some may not even be installed

# Bottom to top: a module imports only from lines above its own.
ORDER = [
    {"qc.errors", "qc.files", "qc.times", "qc.turns"},
    {"qc.kept"},
    {"qc.indexes"},
    {"qc.choices", "qc.pdf"},
    {"qc.lock", "qc.logs", "qc.service", "qc.troubles"},
    {"qc.installation"},
    {"qc.instruments"},
    {"qc.fitsfile"},
    {"qc.frames"},
    {"qc.metrics"},
    {"qc.thresholds"},
    {"qc.judge"},
    {"qc.features"},
    {"qc.tails"},
    {"qc.tables"},
    {"qc.database"},
    {"qc.accounts", "qc.runs", "qc.vector_index"},
    {"qc.settings", "qc.spot_check"},
    {"qc.upkeep"},
    {"qc.stores"},
    {"qc.reading"},
    {"qc.inboxes"},
    {"qc.labels"},
    {"qc.requests"},
    {"qc.epochs"},
    {"qc.schema"},
    {"qc.expectations", "qc.transfer"},
    {"qc.plots"},
    {"qc.pyramids"},
    {"qc.absence", "qc.recall"},
    {"qc.nights"},
    {"qc.portraits", "qc.periods"},
    {"qc.tuning"},
    {"qc.runtime"},
    {"qc.training"},
    {"qc.reports", "qc.exports", "qc.proposals", "qc.review", "qc.trends"},
    {"qc.informative"},
    {"qc.health"},
    {"qc.lessons", "qc.proposal_page", "qc.surveys"},
    {"qc.publishing"},
    {"qc.events"},
    {"qc.stories"},
    {"qc.mail", "qc.notices"},
    {"qc.alerts", "qc.tonight"},
    {"qc.mailing"},
    {"qc.pipeline"},
    {"qc.search"},
    {"qc.history", "qc.maps", "qc.plates"},
    {"qc.closeups"},
    {"qc.why_not"},
    {"qc.simulator"},
    {"qc.selftest"},
    {"qc.cluster"},
    {"qc.backfill"},
    {"qc.watch"},
    {"qc.daemon"},
    {"qc.web"},
    {"qc.demo"},
    {"qc.cli"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if path.stem != "__main__")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own(module: str) -> str:
    """Spell a module as the list does: its package counts as one."""
    return ".".join(module.split(".")[:2])


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> set[str]:
    return set(imports(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", modules("qc"), ids=name_of)
def test_imports_point_down(path):
    module = own(name_of(path))
    if module == "qc":
        assert imports_of(path) == set()
        return
    assert module in LEVEL, "give it a line in the list"
    used = {own(name) for name in imports_of(path) if name.startswith("qc.")} - {module}
    assert {name for name in used if LEVEL[name] >= LEVEL[module]} == set()


@pytest.mark.parametrize("path", modules("embeddings"), ids=name_of)
def test_embeddings_know_nothing_of_names_dates_and_addresses(path):
    used = {name.split(".")[0] for name in imports_of(path)}
    allowed = {
        "embeddings",
        "faiss",
        "numpy",
        "scipy",
        "sklearn",
        "keras",
        "openvino",
        *sys.stdlib_module_names,
    }
    assert used <= allowed


@pytest.mark.parametrize("path", [*modules("qc"), *modules("embeddings")], ids=name_of)
def test_nothing_is_imported_inside_a_function_but_what_is_slow(path):
    functions = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
    ]
    inside = {name.split(".")[0] for function in functions for name in imports(function)}
    assert inside <= SLOW or name_of(path) == "qc.cli"


@pytest.mark.parametrize("path", [*modules("qc"), *modules("embeddings")], ids=name_of)
def test_the_environment_is_read_in_one_place(path):
    reads = "os.environ" in path.read_text() or "getenv" in path.read_text()
    assert not reads or name_of(path) in {"qc.runtime", "qc.cli"}


def run_python(code: str, cwd: Path) -> list[str]:
    """Run code in a fresh interpreter; return what it has loaded in the end."""
    code += "\nimport json, sys; print(json.dumps(list(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [str(name) for name in json.loads(done.stderr.splitlines()[-1])]


def test_nothing_happens_on_import(tmp_path):
    names = [name_of(path) for folder in ("qc", "embeddings") for path in modules(folder)]
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "written = []\n"
        "def watch(event, args):\n"
        "    if event == 'open' and 'w' in str(args[1]) or event.startswith('sqlite3.connect'):\n"
        "        written.append(str(args[0]))\n"
        "    if event in ('socket.connect', 'subprocess.Popen'): written.append(event)\n"
        "sys.dont_write_bytecode = True\n"
        "sys.addaudithook(watch)\n"
        + "".join(f"import {name}\n" for name in names if name)
        + "ours = [one for one in written if '.cache' not in one and 'font' not in one.lower()]\n"
        "assert not ours, ours"
    )
    loaded = run_python(code, tmp_path)
    assert not {"tensorflow", "keras", "torch", "jax"} & set(loaded)
    assert list(tmp_path.iterdir()) == []


def test_help_loads_neither_numpy_nor_sqlalchemy(tmp_path):
    code = (
        "import sys; sys.argv = ['qc', '--help']\n"
        "from qc.cli import main\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code"
    )
    loaded = set(run_python(code, tmp_path))
    assert "typer" in loaded
    assert not {"numpy", "sqlalchemy", "astropy", "pydantic", "pandas", "scipy"} & loaded
