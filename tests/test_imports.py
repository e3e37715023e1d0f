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
LAZY_IMPORTS = ("qc.cli", "qc.__init__", "qc.project")  # commands and the API load at first use
DEFERRED = {  # slow for commands that only read or write rows
    "qc.db.accounts": {"argon2"},
    "qc.db.schema.models": {"sqlalchemy"},
    "qc.db.schema.types": {"numpy"},
    "qc.exports": {"pandas", "qc"},
    "qc.labels.spot_check": {"scipy"},
}


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
    program = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
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
    allowed = SLOW | DEFERRED.get(name_of(path), set())
    assert inside <= allowed or name_of(path) == "qc" or name_of(path).startswith(LAZY_IMPORTS)


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
        + "caches = ('.cache', 'font')\n"
        "ours = [path for path in written if not any(name in path.lower() for name in caches)]\n"
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
    """The packages of the detector import with SQLAlchemy, FastAPI and others absent."""
    packages = ("core", "io", "detection", "figures", "simulator")
    names = [name_of(path) for package in packages for path in modules(f"qc/{package}")]
    names += [name_of(path) for path in modules("embeddings")]
    loaded = run_python(PURE + "".join(f"import {name}\n" for name in names), tmp_path)
    assert "qc.detection.decision" in loaded
    assert "sqlalchemy" not in loaded


JUDGE = """
from dataclasses import replace
from datetime import date
from pathlib import Path
import numpy as np
from qc import core, detection
from qc.io.frame_reader import read_frame
from qc.io.instrument_files import read_instruments
from qc.simulator import CalibrationStream, ObservingPlan, simulate

class Encoder:
    name, stretch, fingerprint = "blocks", "physical", "blocks-1"

    def embed(self, inputs):
        vectors = inputs.reshape(len(inputs), 7, 32, 7, 32, 3).mean(axis=(2, 4))
        vectors = np.hstack([np.full((len(inputs), 1), 100.0), vectors.reshape(len(inputs), -1)])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

def reference(measurement, seed):
    noise = np.random.default_rng(seed).normal(0, 0.1, measurement.statistics.shape)
    return replace(measurement, statistics=measurement.statistics + noise.astype(np.float32))

plan = ObservingPlan(streams=(CalibrationStream("bias", "blue", "BLUE", set_size=1),), aborted=0)
[path] = simulate(
    Path(), nights=1, start=date(2026, 7, 1), faults=0, seed=1, workers=1, plan=plan
)
frame = read_frame(path, read_instruments())
[good] = detection.measure(frame)
bad = replace(good, statistics=good.statistics * np.linspace(1, 2, 224)[:, None, None])
references = [reference(good, seed) for seed in range(20)]
encoder = Encoder()
made = detection.make_reference(references, detection.embed(references, encoder))
limits = {"merge_height": 0.01, "residual": 1000, "false_alarms": 0.001, "metrics": {}}
threshold = detection.Threshold.model_validate(
    {"from": date.min, "encoder": "blocks-1", "why": "test", "by": "test", **limits}
)
embeddings = detection.embed([good, bad], encoder)
judgements = detection.judge([good, bad], embeddings, [made] * 2, [threshold] * 2)
assert [str(judgement.verdict.status) for judgement in judgements] == ["NOMINAL", "ANOMALOUS"]
assert judgements[0].evidence.residual is not None
"""


@pytest.mark.parametrize("package", ["sqlalchemy", "fastapi", "apscheduler", "typer"])
def test_blocker_makes_package_absent(package, tmp_path):
    code = f"{PURE}\ntry: import {package}\nexcept ModuleNotFoundError: pass\n"
    code += "else: raise SystemExit(1)"
    assert package not in run_python(code, tmp_path)


def test_detector_judges_file_without_database_web_or_scheduler(tmp_path):
    """A FITS file is judged against references from arrays, with those packages absent."""
    loaded = run_python(PURE + JUDGE, tmp_path)
    assert "qc.detection.judgement" in loaded
    assert not {"sqlalchemy", "fastapi", "apscheduler", "typer", "qc.db"} & set(loaded)
