"""Record and compare golden files: verdicts, metrics, REST interface and commands of a version.

::

    python -m tools.golden record tests/golden demo     # of the version that is importable as qc
    python -m tools.golden compare tests/golden demo    # exit code 1 on a difference

``demo`` is a project made by ``qc demo``. Times and paths are left out. The comparison of verdicts,
metrics and embeddings is exact; a different CPU may change the last digits of an embedding, so the
golden files and the project have to come from one machine for that.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TABLES = ("verdicts", "metrics", "embeddings")
VOLATILE_COLUMNS = ("judged_at", "path")
KEY = ["file", "extension"]
TEXT_COLUMNS = ("reasons", "widened")
FORMER_ADDRESSES = {  # hidden aliases, served by the same function as the new address
    "/api/v1/tonight": "/api/v1/dashboard",
    "/api/v1/notices/{number}/acknowledge": "/api/v1/notifications/{number}/acknowledge",
    "/api/v1/frames/{name}/beside": "/api/v1/frames/{name}/nearest-bad",
    "/api/v1/frames/{name}/where": "/api/v1/frames/{name}/residual-map",
    "/api/v1/frames/{name}/why": "/api/v1/frames/{name}/explanation",
    "/api/v1/frames/{name}/why/cost": "/api/v1/frames/{name}/explanation/cost",
    "/api/v1/map": "/api/v1/projection",
}
MAX_DEPTH = 12  # of nested schemas; recursive ones end there
CONTAINERS = {"items", "schema", "content", "anyOf", "allOf", "oneOf", "additionalProperties"}
EXIT_CODES = (
    ("status",),
    ("export", "verdicts"),
    ("show", "none"),
    ("similar", "none"),
    ("label", "none", "--as", "good"),
    ("epoch",),
    ("tune", "none"),
    ("alerts",),
    ("user", "list"),
    ("db", "check"),
    ("process", "none.fits"),
    ("nonsense",),
)
OPENAPI = """
import importlib, json, sys
from pathlib import Path
from qc.settings import read_settings
from qc.web.app import create_app
try:
    module = importlib.import_module("qc.runtime")  # version 0.1
    open_project = module.open_runtime
except ImportError:
    open_project = importlib.import_module("qc.project").open_project
with open_project(read_settings(Path(sys.argv[1]))) as project:
    print(json.dumps(create_app(project).openapi()))
"""
COMMANDS = """
import json, sys
import typer.main
try:
    from qc.cli.main import app
except ImportError:
    from qc.cli import app
def walk(command, path):
    children = getattr(command, "commands", None)
    names = [name for item in command.params for name in [*item.opts, *item.secondary_opts]]
    yield " ".join(path), sorted({name for name in names if name.startswith("-")})
    for name, child in (children or {}).items():
        yield from walk(child, [*path, name])
print(json.dumps(dict(walk(typer.main.get_command(app), []))))
"""


def read_table(project: Path, table: str) -> pd.DataFrame:
    """Return an exported table without times and paths, ordered by file and extension.

    Parameters
    ----------
    project : Path
        Project folder.
    table : str
        ``verdicts``, ``metrics`` or ``embeddings``.

    Returns
    -------
    DataFrame
        All columns as text, as exported; an embedding as the SHA-256 of its text.
    """
    text = run("-m", "qc", "export", table, "--project", str(project))
    rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    if "embedding" in rows:
        rows["embedding"] = [hashlib.sha256(x.encode()).hexdigest() for x in rows["embedding"]]
    rows = rows.drop(columns=[name for name in VOLATILE_COLUMNS if name in rows])
    return rows.sort_values(KEY).reset_index(drop=True)


def read_commands() -> dict[str, list[str]]:
    """Return the options of every command, hidden ones included, by command path."""
    commands: dict[str, list[str]] = json.loads(run("-c", COMMANDS))
    return commands


def read_openapi(project: Path) -> dict[str, Any]:
    """Return the OpenAPI document of the review pages."""
    document: dict[str, Any] = json.loads(run("-c", OPENAPI, str(project)))
    return document


def read_exit_codes(project: Path) -> dict[str, int]:
    """Return the exit code of each command of `EXIT_CODES`, run in the project."""
    return {
        " ".join(command): subprocess.run(
            [sys.executable, "-m", "qc", *command, "--project", str(project)],
            capture_output=True,
            check=False,
        ).returncode
        for command in EXIT_CODES
    }


def run(*arguments: str) -> str:
    """Run Python with arguments; return its output."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def record(folder: Path, project: Path) -> None:
    """Write the golden files of a project.

    Parameters
    ----------
    folder : Path
        Folder of the golden files; created if absent.
    project : Path
        Project folder made by ``qc demo``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        compression = {"method": "gzip", "mtime": 0}
        path = folder / f"{table}.csv.gz"
        read_table(project, table).to_csv(path, index=False, compression=compression)
    for name, document in (
        ("commands", read_commands()),
        ("openapi", read_openapi(project)),
        ("exit_codes", read_exit_codes(project)),
    ):
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def compare(folder: Path, project: Path) -> Iterator[str]:
    """Yield one line per difference between the golden files and a project.

    Parameters
    ----------
    folder : Path
        Folder of the golden files.
    project : Path
        Project folder made by ``qc demo``.

    Yields
    ------
    str
        File, expected and found.
    """
    for table in TABLES:
        golden = read_golden_table(folder, table)
        yield from compare_tables(table, golden, read_table(project, table))
    yield from compare_commands(read_golden(folder, "commands"), read_commands())
    yield from compare_openapi(read_golden(folder, "openapi"), read_openapi(project))
    codes = read_exit_codes(project)
    for command, code in read_golden(folder, "exit_codes").items():
        if codes[command] != code:
            yield f"exit code of {command!r}: expected {code}, found {codes[command]}"


def read_golden(folder: Path, name: str) -> dict[str, Any]:
    """Return a golden JSON document.

    Parameters
    ----------
    folder : Path
    name : str
        ``commands``, ``openapi`` or ``exit_codes``.

    Returns
    -------
    dict
    """
    document: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return document


def read_golden_table(folder: Path, table: str) -> pd.DataFrame:
    """Return a golden table, all columns as text.

    Parameters
    ----------
    folder : Path
    table : str
        ``verdicts``, ``metrics`` or ``embeddings``.

    Returns
    -------
    DataFrame
    """
    return pd.read_csv(folder / f"{table}.csv.gz", dtype=str, keep_default_na=False)


def compare_tables(
    name: str, golden: pd.DataFrame, found: pd.DataFrame, tolerance: float = 0.0
) -> Iterator[str]:
    """Yield the differences of a table: columns, rows and cells.

    Parameters
    ----------
    name : str
        Name of the table, for the message.
    golden, found : DataFrame
        Text columns, ordered alike.
    tolerance : float
        Relative difference of numbers that is accepted; 0 compares the text. Texts in words
        (`TEXT_COLUMNS`) are not compared: their wording is no interface.

    Yields
    ------
    str
    """
    missing = [column for column in golden if column not in found]
    if missing or len(golden) != len(found):
        yield f"{name}: {len(golden)} rows expected, {len(found)} found; missing columns: {missing}"
        return
    for column in golden:
        if column in TEXT_COLUMNS:
            continue
        differs = golden[column].to_numpy() != found[column].to_numpy()
        if tolerance:
            expected_numbers, numbers = (
                pd.to_numeric(table[column], errors="coerce").to_numpy()
                for table in (golden, found)
            )
            differs &= ~np.isclose(numbers, expected_numbers, rtol=tolerance, atol=1e-9)
        if differs.any():
            row = int(differs.argmax())
            yield (
                f"{name}.{column}: {differs.sum()} of {len(golden)} differ, first at "
                f"{golden['file'][row]}: expected {golden[column][row]}, found {found[column][row]}"
            )


def compare_commands(
    golden: Mapping[str, list[str]], found: Mapping[str, list[str]]
) -> Iterator[str]:
    """Yield each command or option of the golden version that is missing.

    Parameters
    ----------
    golden, found : mapping of str to list of str
        Options by command path.

    Yields
    ------
    str
    """
    for command, options in golden.items():
        if command not in found:
            yield f"command {command!r} is missing"
        elif missing := set(options) - set(found[command]):
            yield f"command {command!r}: options are missing: {sorted(missing)}"


def compare_openapi(golden: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Yield each path, parameter or response field of the golden version that is missing.

    Parameters
    ----------
    golden, found : mapping
        OpenAPI documents.

    Yields
    ------
    str
    """
    for path, methods in golden["paths"].items():
        for method, operation in methods.items():
            name = f"{method.upper()} {path}"
            address = FORMER_ADDRESSES.get(path, path)
            now = found["paths"].get(address, {}).get(method)
            if now is None:
                yield f"{name} is missing"
                continue
            before = {item["name"] for item in operation.get("parameters", ())}
            after = {item["name"]: item for item in now.get("parameters", ())}
            yield from (f"{name}: parameter {item} is missing" for item in before - set(after))
            added = {key for key, item in after.items() if item.get("required")} - before
            yield from (f"{name}: new required parameter {item}" for item in added)
            for kind in ("requestBody", "responses"):
                old_fields = set(_fields(operation.get(kind), golden))
                missing = old_fields - set(_fields(now.get(kind), found))
                yield from (f"{name}: field {item} of {kind} is missing" for item in missing)


def _fields(
    node: Any, document: Mapping[str, Any], path: str = "", depth: int = 0
) -> Iterator[str]:
    """Yield the dotted names of all properties below a node; references are followed."""
    if depth > MAX_DEPTH:
        return
    if isinstance(node, list):
        for item in node:
            yield from _fields(item, document, path, depth + 1)
    if not isinstance(node, Mapping):
        return
    for name, schema in node.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from _fields(schema, document, f"{path}.{name}", depth + 1)
    if "$ref" in node:
        yield from _fields(_resolve(node["$ref"], document), document, path, depth + 1)
    for key, value in node.items():
        if key in CONTAINERS or "/" in key or key.isdigit():  # media types and status codes
            yield from _fields(value, document, path, depth + 1)


def _resolve(reference: str, document: Mapping[str, Any]) -> Any:
    """Return the node that a reference such as ``#/components/schemas/Frame`` names."""
    node: Any = document
    for key in reference.removeprefix("#/").split("/"):
        node = node[key]
    return node


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("folder", type=Path, help="folder of the golden files")
    parser.add_argument("project", type=Path, help="project made by 'qc demo'")
    options = parser.parse_args()
    if options.action == "record":
        record(options.folder, options.project)
        return 0
    differences = list(compare(options.folder, options.project))
    print("\n".join(differences) or "no difference")
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
