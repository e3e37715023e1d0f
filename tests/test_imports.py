"""Rules of import that import-linter cannot state: speed, purity and the environment."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SLOW = {"distributed", "keras", "openvino", "pyarrow", "tensorflow", "weasyprint"}
LAZY_IMPORTS = ("qc.cli", "qc.__init__")  # commands and the public API load what they use


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if path.stem != "__main__")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_import_contracts_hold():
    """The layers and forbidden imports declared in pyproject.toml hold."""
    program = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", modules("embeddings"), ids=name_of)
def test_embeddings_imports_numerical_libraries_only(path):
    """`embeddings` turns arrays into arrays: no path, header, row or settings object."""
    used = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
    numerical = {"embeddings", "faiss", "numpy", "scipy", "sklearn", "keras", "openvino"}
    assert used <= numerical | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", [*modules("qc"), *modules("embeddings")], ids=name_of)
def test_function_level_import_is_slow_library(path):
    functions = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
    ]
    inside = {name.split(".")[0] for function in functions for name in imports(function)}
    assert inside <= SLOW or name_of(path) == "qc" or name_of(path).startswith(LAZY_IMPORTS)


@pytest.mark.parametrize("path", [*modules("qc"), *modules("embeddings")], ids=name_of)
def test_environment_is_read_in_one_place(path):
    reads = "os.environ" in path.read_text() or "getenv" in path.read_text()
    assert not reads or name_of(path) == "qc.project" or name_of(path).startswith("qc.cli")


def run_python(code: str, cwd: Path) -> list[str]:
    """Run code in a fresh interpreter; return the modules it has loaded in the end."""
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


def test_import_has_no_side_effect(tmp_path):
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
        + "ours = [path for path in written if '.cache' not in path and 'font' not in path.lower()]\n"
        "assert not ours, ours"
    )
    loaded = run_python(code, tmp_path)
    assert not {"tensorflow", "keras", "torch", "jax"} & set(loaded)
    assert list(tmp_path.iterdir()) == []


def test_help_loads_no_numerical_library(tmp_path):
    code = (
        "import sys; sys.argv = ['qc', '--help']\n"
        "from qc.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code"
    )
    loaded = set(run_python(code, tmp_path))
    assert "typer" in loaded
    assert not {"numpy", "sqlalchemy", "astropy", "pydantic", "pandas", "scipy"} & loaded


PURE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"sqlalchemy", "fastapi", "apscheduler", "typer"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def test_core_io_and_detection_work_without_database_web_or_scheduler(tmp_path):
    """The detector's packages import where SQLAlchemy, FastAPI, APScheduler and typer are absent."""
    packages = ("core", "io", "detection", "figures", "simulator")
    names = [name_of(path) for package in packages for path in modules(f"qc/{package}")]
    names += [name_of(path) for path in modules("embeddings")]
    loaded = run_python(PURE + "".join(f"import {name}\n" for name in names), tmp_path)
    assert "qc.detection.decision" in loaded
    assert "sqlalchemy" not in loaded
