"""Measure structure and language of the code against the limits of the project.

::

    python -m tools.measure_style [ROOT]      # exit code 1 beyond a limit

Counted are docstrings, comments and names of ``qc`` and ``embeddings``. Templates and scripts count
for the words alone.
"""

import ast
import io
import re
import statistics
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NOUN_CLAUSE = re.compile(r"\b(what|who|whoever|whom)\b", re.IGNORECASE)
TELLING = re.compile(r"\b(told|tells?|says?|said)\b", re.IGNORECASE)
PRONOUNS = frozenset(
    (
        "one each other others own its it they told said known found given made seen wanted asked "
        "kept left taken had shown what who words theirs ours word beside among"
    ).split()
)
NO_NOUNS = frozenset(
    (
        "Told Said Did Had Seen Kept Tried Judged Measured Rejudged Chosen Embedded Among Some "
        "What Which Alike Entered Trained Found Given Asked Owed Learnt Such Here There"
    ).split()
)
PACKAGES = ("qc", "embeddings")


@dataclass(frozen=True)
class Figure:
    """One measured figure and its limit; beyond the limit the code fails."""

    name: str
    value: float
    limit: float

    @property
    def is_within_limit(self) -> bool:
        """Return True if the figure does not exceed its limit."""
        return self.value <= self.limit


@dataclass
class ModuleFacts:
    """Names, functions and texts of one module."""

    path: Path
    lines: int
    texts: list[str]
    imported: int
    bound: list[str]
    classes: list[str]
    functions: list[ast.FunctionDef | ast.AsyncFunctionDef]
    calls: Counter[str]


def read_module(path: Path) -> ModuleFacts:
    """Parse a module."""
    source = path.read_text()
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    return ModuleFacts(
        path=path,
        lines=source.count("\n"),
        texts=[*_docstrings(nodes), *_comments(source)],
        imported=sum(len(n.names) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)),
        bound=list(_bound_names(nodes)),
        classes=[node.name for node in nodes if isinstance(node, ast.ClassDef)],
        functions=[n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)],
        calls=Counter(_references(nodes)),
    )


def _docstrings(nodes: list[ast.AST]) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in nodes:
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text


def _comments(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")


def _bound_names(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def _references(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def is_private(name: str) -> bool:
    """Return True for a name with one leading underscore."""
    return name.startswith("_") and not name.startswith("__")


def lacks_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool | None:
    """Return True if a public function of two or more arguments has no ``Parameters`` section.

    None for private functions and for fewer arguments.
    """
    arguments = [*function.args.args, *function.args.kwonlyargs, *function.args.posonlyargs]
    names = [item.arg for item in arguments if item.arg not in {"self", "cls"}]
    if function.name.startswith("_") or len(names) < 2:
        return None
    return "Parameters" not in (ast.get_docstring(function) or "")


def measure(root: Path) -> list[Figure]:
    """Measure the packages of a source tree.

    Parameters
    ----------
    root : Path
        Folder that holds ``qc`` and ``embeddings``.

    Returns
    -------
    list of Figure
    """
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    modules = [read_module(path) for path in paths]
    text = "\n".join(text for module in modules for text in module.texts)
    words = len(text.split())
    bound = [name for module in modules for name in module.bound]
    definitions: dict[str, set[Path]] = defaultdict(set)
    for module in modules:
        for name in module.classes:
            definitions[name].add(module.path)
    functions = [function for module in modules for function in module.functions]
    private = [function for function in functions if is_private(function.name)]
    calls = sum((module.calls for module in modules), Counter[str]())
    folders = Counter(path.parent for path in paths if path.name != "__init__.py")
    documented = [lacks for f in functions if (lacks := lacks_parameters(f)) is not None]
    return [
        Figure("modules in the largest folder", max(folders.values()), 12),
        Figure("modules directly in qc/", len(list((root / "qc").glob("*.py"))), 13),
        Figure("lines of the longest module", max(module.lines for module in modules), 900),
        Figure(
            "noun clauses with what/who per 1000 words",
            1000 * len(NOUN_CLAUSE.findall(text)) / words,
            1,
        ),
        Figure("forms of tell/say per 1000 words", 1000 * len(TELLING.findall(text)) / words, 0.5),
        Figure(
            "pronoun-like bound names, %",
            100 * sum(name in PRONOUNS for name in bound) / len(bound),
            1,
        ),
        Figure(
            "classes named by a participle or pronoun",
            sum(name.strip("_") in NO_NOUNS for name in definitions),
            0,
        ),
        Figure(
            "class names defined in two or more modules",
            sum(len(places) > 1 for places in definitions.values()),
            0,
        ),
        Figure("private functions, %", 100 * len(private) / len(functions), 30),
        Figure(
            "private functions called once, % of all functions",
            100 * sum(calls[function.name] <= 1 for function in private) / len(functions),
            100,
        ),
        Figure(
            "imported names per module, median",
            statistics.median(module.imported for module in modules),
            10,
        ),
        Figure(
            "public functions (2+ arguments) without Parameters, %",
            100 * sum(documented) / max(len(documented), 1),
            10,
        ),
    ]


def main() -> int:
    """Print the figures; return 1 if one is beyond its limit."""
    figures = measure(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    for figure in figures:
        mark = "  " if figure.is_within_limit else "> "
        print(f"{mark}{figure.name:56}{figure.value:8.1f}   limit {figure.limit:g}")
    return any(not figure.is_within_limit for figure in figures)


if __name__ == "__main__":
    sys.exit(main())
