"""Sphinx extension that writes reference tables from the program's own definitions.

A page holds the comment ``<!-- generate: NAME -->``. Sphinx replaces it by Markdown when it reads
the page. The names are the keys of `GENERATORS`. Imports of the program are inside the functions:
Sphinx starts without them.
"""

import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from statistics import fmean
from typing import Any

from numpydoc.docscrape import NumpyDocString
from ruamel.yaml import YAML
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

DOCS = Path(__file__).parents[1]
FIGURES = DOCS.parent / "benchmarks" / "results"
PREVALENCE = 0.02  # share of bad frames on a good telescope
MARKER = re.compile(r"^<!-- generate: ([a-z-]+) -->$", re.MULTILINE)
EXAMPLE_LINE = re.compile(r"^# (?P<key>\w+) = .*?\s#\s(?P<meaning>.*)$")
EXAMPLE_SECTION = re.compile(r"^(?:# )?\[+(?P<name>\w+)\]+")
LARGEST_BOUND = 2**53  # larger bounds are technical and are not shown

Schema = Mapping[str, Any]
Namer = Callable[[str], str]


# --- Markdown -------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"


def cell(text: str) -> str:
    """Return text for a table cell: one line, with escaped separators."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(str(text).split())) or " "


def code(value: object) -> str:
    """Return a value as inline code; empty text stays empty."""
    return f"`{value}`" if str(value) else ""


def plain(text: str) -> str:
    """Return docstring markup as Markdown: RST literals and default roles become code."""
    return re.sub(r"(?<!`)`([^`\n]+)`(?!`)", r"`\1`", text.replace("``", "`"))


def paragraphs(docstring: str | None) -> str:
    """Return the summary and the extended summary of a numpydoc docstring."""
    parsed = NumpyDocString(docstring or "")
    text = "\n".join([*parsed["Summary"], "", *parsed["Extended Summary"]])
    return plain(text).strip()


# --- JSON schema ----------------------------------------------------------------------------------


def resolve(document: Schema, schema: Schema) -> Schema:
    """Return the schema that a reference points to."""
    if "$ref" in schema:
        target: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return dict(target)
    if len(schema.get("allOf", ())) == 1:
        return resolve(document, schema["allOf"][0])
    return schema


def describe_type(document: Schema, schema: Schema, name_object: Namer = str) -> str:
    """Return the accepted values of a schema in words.

    Parameters
    ----------
    document : mapping
        JSON schema that holds the definitions.
    schema : mapping
        Schema to be described.
    name_object : callable
        Text for an object, made from the title of its schema.
    """
    if "anyOf" in schema:
        options = [option for option in schema["anyOf"] if option.get("type") != "null"]
        return " or ".join(
            dict.fromkeys(describe_type(document, option, name_object) for option in options)
        )
    resolved = resolve(document, schema)
    if "const" in resolved or "enum" in resolved:
        values = resolved.get("enum") or [resolved["const"]]
        return ", ".join(code(json.dumps(value)) for value in values)
    kind = resolved.get("type", "any value")
    if kind == "array":
        items = resolved.get("items") or (resolved.get("prefixItems") or [{}])[0]
        text = f"list of {describe_type(document, items, name_object)}"
    elif kind == "object" and "properties" in resolved:
        text = name_object(str(resolved.get("title", "object")))
    elif kind == "object":
        values = resolved.get("additionalProperties")
        is_typed = isinstance(values, dict)
        text = f"map to {describe_type(document, values, name_object)}" if is_typed else "map"
    else:
        names = {"string": "text", "integer": "whole number", "boolean": "true or false"}
        text = str(resolved.get("format") or names.get(kind, kind)) + describe_bounds(resolved)
    return text


def describe_bounds(schema: Schema) -> str:
    """Return the limits of a number or a text, e.g. `` > 0``."""
    signs = {
        "exclusiveMinimum": "> {}",
        "minimum": ">= {}",
        "exclusiveMaximum": "< {}",
        "maximum": "<= {}",
        "maxLength": "up to {} characters",
    }
    bounds = [
        sign.format(schema[name])
        for name, sign in signs.items()
        if abs(schema.get(name, LARGEST_BOUND)) < LARGEST_BOUND
    ]
    return f" {', '.join(bounds)}" if bounds else ""


def attribute_meanings(schema: Schema) -> dict[str, str]:
    """Return the meaning of each field from the Attributes section of the class docstring."""
    meanings = {}
    for parameter in NumpyDocString(schema.get("description", ""))["Attributes"]:
        for name in parameter.name.split(","):
            meanings[name.strip()] = plain(" ".join(parameter.desc)) or parameter.type
    return meanings


def default_of(schema: Schema, *, is_required: bool) -> str:
    """Return the default of a field as code."""
    if is_required:
        return "required"
    value = schema.get("default")
    return code(json.dumps(value)) if value not in (None, "", [], {}) else "none"


def definitions_in(schema: Schema) -> Iterator[str]:
    """Yield the names of the definitions that a schema uses, in the order of its fields."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from definitions_in(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from definitions_in(value)


def sections_of(document: Schema) -> dict[str, Schema]:
    """Return the object schemas of a document, outermost first, by their first path of keys."""
    sections = {"file": document}
    visited: set[str] = set()
    queue = [("", document)]
    while queue:
        parent, section = queue.pop(0)
        for key, field in section["properties"].items():
            for name in definitions_in(field):
                definition = document["$defs"][name]
                if name not in visited and "properties" in definition:
                    visited.add(name)
                    path = f"{parent}.{key}".strip(".")
                    sections[path] = definition
                    queue.append((path, definition))
    return sections


# --- settings -------------------------------------------------------------------------------------


def example_meanings(text: str) -> dict[tuple[str, str], str]:
    """Return the comment of each key of the example file, by section and key."""
    meanings, section = {}, ""
    for line in text.splitlines():
        if match := EXAMPLE_SECTION.match(line):
            section = match["name"]
        elif match := EXAMPLE_LINE.match(line):
            meanings[section, match["key"]] = match["meaning"]
    return meanings


def settings_reference() -> str:
    """Return a table of the keys of each section of ``qc.toml``."""
    import qc
    from qc.settings import Settings

    document = Settings.model_json_schema()
    meanings = example_meanings((Path(qc.__file__).parent / "example.toml").read_text())
    parts = [settings_table(document, document, "", meanings)]
    for name, schema in document["properties"].items():
        is_list = schema.get("type") == "array"
        section = resolve(document, schema["items"] if is_list else schema)
        if "properties" in section:
            heading = f"[[{name}]]" if is_list else f"[{name}]"
            parts.append(f"### `{heading}`\n\n{paragraphs(section.get('description'))}\n")
            parts.append(settings_table(document, section, name, meanings))
    return "\n".join(parts)


def settings_table(
    document: Schema, section: Schema, name: str, meanings: Mapping[tuple[str, str], str]
) -> str:
    """Return the keys of one section with type, default, environment variable and meaning."""
    rows = []
    documented = attribute_meanings(section)
    for key, schema in section["properties"].items():
        target = resolve(document, schema.get("items", schema))
        if "properties" in target:  # a section, with a table of its own
            continue
        variable = "QC_" + f"{name}__{key}".strip("_").upper()
        rows.append(
            (
                code(key),
                describe_type(document, schema),
                default_of(schema, is_required=key in section.get("required", ())),
                "" if section.get("title") in {"Inbox", "Subscription"} else code(variable),
                meanings.get((name, key)) or documented.get(key, ""),
            )
        )
    return table(("key", "value", "default", "environment", "meaning"), rows)


# --- thresholds and instruments -------------------------------------------------------------------


def fields_table(document: Schema, section: Schema, meanings: Mapping[str, str], title: str) -> str:
    """Return the keys of a mapping in a YAML file.

    Raises
    ------
    ExtensionError
        If a key has no description in the docstring or in the page's own list.
    """
    documented = {**attribute_meanings(section), **meanings}
    missing = [key for key in section["properties"] if not documented.get(key)]
    if missing:
        raise ExtensionError(f"{title}: no description of {', '.join(missing)}")
    required = section.get("required", ())
    return table(
        ("key", "value", "default", "meaning"),
        (
            (
                code(key),
                describe_type(document, schema, lambda _title: "section"),
                default_of(schema, is_required=key in required),
                documented[key],
            )
            for key, schema in section["properties"].items()
        ),
    )


def thresholds_reference() -> str:
    """Return the keys of an entry of ``thresholds.yaml`` and of a metric limit."""
    from qc.detection.thresholds import Threshold

    return yaml_reference(Threshold.model_json_schema(), "thresholds")


def instruments_reference() -> str:
    """Return the keys of an instrument file, section by section."""
    from pydantic import TypeAdapter

    from qc.io.instruments import Instrument

    return yaml_reference(TypeAdapter(Instrument).json_schema(), "instruments")


def yaml_reference(document: Schema, name: str) -> str:
    """Return a heading and a table for each mapping of a YAML format.

    Parameters
    ----------
    document : mapping
        The JSON schema of the format.
    name : str
        Name of the list of descriptions: ``reference/keys-NAME.yaml``.
    """
    meanings = YAML(typ="safe").load(DOCS / "reference" / f"keys-{name}.yaml")
    parts = []
    for section, schema in sections_of(document).items():
        entry = meanings[section]
        parts.append(f"### {entry['title']}\n\n{entry.get('text', '')}\n")
        parts.append(fields_table(document, schema, entry.get("keys", {}), section))
    return "\n".join(parts)


# --- metrics --------------------------------------------------------------------------------------


def metrics_reference() -> str:
    """Return the metrics by subject, each with unit, formula, floor and QC1 parameter.

    Raises
    ------
    ExtensionError
        If the page's list and the program's metrics differ.
    """
    from qc.detection.metrics import METRICS

    groups = YAML(typ="safe").load(DOCS / "reference" / "metrics.yaml")
    listed = [name for group in groups for name in group["metrics"]]
    if sorted(listed) != sorted(METRICS):
        different = sorted(set(listed) ^ set(METRICS))
        raise ExtensionError(f"metrics.yaml and METRICS differ: {', '.join(different)}")
    parts = []
    for group in groups:
        parts.append(f"## {group['title']}\n\n{group['text']}\n")
        rows = [
            (
                code(name),
                METRICS[name].meaning,
                METRICS[name].unit or "1",
                entry["formula"],
                f"{METRICS[name].floor:g}",
                entry.get("qc1", "-"),
            )
            for name, entry in group["metrics"].items()
        ]
        header = ("metric", "meaning", "unit", "formula", "least scatter", "ESO QC1")
        parts.append(table(header, rows))
    return "\n".join(parts)


# --- results -------------------------------------------------------------------------------------


def accuracy_rows() -> list[tuple[str, ...]]:
    """Return the rows of the table of accuracy, from the figures of the benchmarks."""
    rows = [
        detection_row("detection_fresh", "unseen seed, judged once"),
        detection_row("detection", "test history, nine months"),
    ]
    series = json.loads((FIGURES / "real.json").read_text())["series"]
    total = series.pop("all")
    missed = sum(count - hits for hits, count in total["recall"].values())
    alarms = round(total["good"] * total["false_alarms"]["value"])
    auroc = fmean(row["auroc"]["value"] for row in series.values())
    name = "real frames of four other instruments, injected faults"
    counts = (f"{total['bad']}, {total['good']}", str(missed), str(alarms))
    return [*rows, (name, *counts, "-", "-", f"{auroc:.3f}", "-")]


def detection_row(figures: str, name: str) -> tuple[str, ...]:
    """Return the row of one simulated history: sums and means over its image types."""
    types = json.loads((FIGURES / f"{figures}.json").read_text())["product"].values()
    means = {
        key: fmean(row[key]["value"] for row in types)
        for key in ("f1", "auroc", "recall", "false_alarms")
    }
    missed = sum(round(row["bad"] * (1 - row["recall"]["value"])) for row in types)
    alarms = sum(round(row["nominal"] * row["false_alarms"]["value"]) for row in types)
    hits = means["recall"] * PREVALENCE
    precision = hits / (hits + means["false_alarms"] * (1 - PREVALENCE))
    return (
        name,
        f"{sum(row['bad'] for row in types)}, {sum(row['nominal'] for row in types)}",
        str(missed),
        str(alarms),
        f"{means['f1']:.3f}",
        f"{min(row['f1']['value'] for row in types):.3f}",
        f"{means['auroc']:.3f}",
        f"{precision:.2f}",
    )


def accuracy_reference() -> str:
    """Return the table of accuracy."""
    header = ("frames", "bad, good", "missed", "false alarms", "F1", "worst type", "AUROC")
    return table((*header, f"precision at {100 * PREVALENCE:g} % bad"), accuracy_rows())


# --- database -------------------------------------------------------------------------------------


def database_reference() -> str:
    """Return each table of the database with columns, keys and indexes."""
    from qc.db.schema.models import Base

    summaries = {
        mapper.local_table.name: paragraphs(mapper.class_.__doc__)
        for mapper in Base.registry.mappers
    }
    parts = []
    for name, content in sorted(Base.metadata.tables.items()):
        parts.append(f"## `{name}`\n\n{summaries.get(name, '')}\n")
        rows = (
            (
                code(column.name),
                column_type(column),
                "yes" if column.nullable else "no",
                ", ".join(column_keys(column)),
            )
            for column in content.columns
        )
        parts.append(table(("column", "type", "null", "key"), rows))
        indexes = sorted(content.indexes, key=lambda index: str(index.name))
        if indexes:
            names = (
                f"{code(index.name)} ({', '.join(column.name for column in index.columns)})"
                + (" unique" if index.unique else "")
                for index in indexes
            )
            parts.append("Indexes: " + "; ".join(names) + ".\n")
    return "\n".join(parts)


def column_type(column: Any) -> str:
    """Return the SQL type of a column, without the collation."""
    kind = type(column.type)
    if kind.__module__.startswith("sqlalchemy"):
        return str(column.type).partition(" COLLATE")[0].lower()
    return (kind.__doc__ or kind.__name__).splitlines()[0].rstrip(".").replace("|", "/")


def column_keys(column: Any) -> Iterator[str]:
    """Yield the roles of a column: primary key, unique, foreign key."""
    if column.primary_key:
        yield "primary"
    if column.unique:
        yield "unique"
    for key in column.foreign_keys:
        yield f"→ `{key.target_fullname}`"


# --- architecture --------------------------------------------------------------------------------


def layers_reference() -> str:
    """Return the layers of the import contract, highest first."""
    configuration = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = configuration["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return "\n".join(["```text", *layers, "```"])


# --- errors ---------------------------------------------------------------------------------------


def errors_reference() -> str:
    """Return every error class with its base and its meaning."""
    from qc.errors import QCError

    return table(
        ("error", "base", "meaning"),
        (
            (code(error.__name__), code(error.__bases__[0].__name__), summary(error))
            for error in (QCError, *subclasses(QCError))
        ),
    )


def subclasses(base: type) -> Iterator[type]:
    """Yield the subclasses in ``qc.errors``, each before its own subclasses."""
    for child in base.__subclasses__():
        if child.__module__ == "qc.errors":
            yield child
            yield from subclasses(child)


def summary(target: object) -> str:
    """Return the first paragraph of a docstring."""
    return paragraphs(target.__doc__).partition("\n\n")[0]


# --- command line ---------------------------------------------------------------------------------


def commands_reference() -> str:
    """Return usage, arguments and options of every command."""
    import typer

    from qc.cli import main  # noqa: F401 - registers the commands
    from qc.cli.options import app

    group: Any = typer.main.get_command(app)
    commands = list(walk_commands(group, "qc"))
    short = (
        (f"[`{path}`](#{anchor(path)})", command.get_short_help_str(limit=200))
        for path, command in commands
    )
    parts = [table(("command", ""), short)]
    for path, command in commands:
        parts.append(f"({anchor(path)})=\n## `{path}`\n\n{escape_help(command.help)}\n")
        parts.append(f"```text\n{usage(path, command)}\n```\n")
        context = typer.Context(command)
        rows = [
            parameter_row(parameter, context) for parameter in command.params if is_shown(parameter)
        ]
        if rows:
            parts.append(table(("argument or option", "value", "default", "meaning"), rows))
    return "\n".join(parts)


def anchor(path: str) -> str:
    """Return the link target of a command."""
    return "command-" + path.replace(" ", "-")


def walk_commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that is not hidden, with the words to type."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        full = f"{path} {name}"
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield full, command
            yield from walk_commands(command, full)
        else:
            yield full, command


def escape_help(text: str | None) -> str:
    """Return a help text for Markdown: option names become code, line breaks are kept."""
    text = re.sub(r"[\b\f]", "", text or "")
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", text)


def is_shown(parameter: Any) -> bool:
    """Return True if a parameter appears in the help."""
    return not getattr(parameter, "hidden", False) and parameter.name != "help"


def usage(path: str, command: Any) -> str:
    """Return the usage line of a command."""
    words = []
    for parameter in command.params:
        if is_shown(parameter) and parameter.param_type_name == "argument":
            word = (parameter.metavar or parameter.name.upper()).strip("[]")
            word += "..." if parameter.nargs == -1 and not word.endswith("...") else ""
            words.append(word if parameter.required else f"[{word}]")
    has_options = any(is_shown(p) and p.param_type_name == "option" for p in command.params)
    return " ".join([path, *(["[OPTIONS]"] if has_options else []), *words])


def parameter_row(parameter: Any, context: Any) -> tuple[str, str, str, str]:
    """Return name, value, default and help of a parameter."""
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name.upper()]
    is_flag = getattr(parameter, "is_flag", False)
    value = (
        parameter.metavar if is_option and parameter.metavar else parameter.display_type(context)
    )
    value = code(value) if "|" in value else value.strip("<>")
    shown = getattr(parameter, "show_default", "")
    default = shown if isinstance(shown, str) and shown else shown_default(parameter)
    variable = f" Environment: `{parameter.envvar}`." if getattr(parameter, "envvar", "") else ""
    help_text = escape_help(getattr(parameter, "help", "")) + variable
    return ", ".join(map(code, names)), "" if is_flag else value, default, help_text


def shown_default(parameter: Any) -> str:
    """Return the default of a parameter as text."""
    if parameter.required:
        return "required"
    value = parameter.default
    is_unset = value is None or callable(value) or "UNSET" in repr(value)
    if is_unset or value in ((), [], "", False, True):
        return ""
    return code(str(getattr(value, "value", value)).removesuffix(" 00:00:00"))


# --- REST -----------------------------------------------------------------------------------------


def rest_reference() -> str:
    """Return every address of the REST API with parameters and answers."""
    from qc.web.app import create_app

    project: Any = None  # the OpenAPI document needs no open project
    document = create_app(project).openapi()
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        if not path.startswith("/api/"):
            continue
        subject = path.removeprefix("/api/v1/").partition("/")[0]
        for method, operation in methods.items():
            name = (operation.get("tags") or [subject])[0]
            groups.setdefault(name, []).append(operation_text(document, path, method, operation))
    parts = [f"## {name.capitalize()}\n\n" + "\n".join(texts) for name, texts in groups.items()]
    schemas = document["components"]["schemas"]
    parts.append("## Objects\n")
    for name in sorted(schemas):
        if "properties" in schemas[name] and not name.startswith(("Body_", "HTTPValid", "Validat")):
            described = paragraphs(schemas[name].get("description"))
            parts.append(f"({object_anchor(name)})=\n### {name}\n\n{described}\n")
            parts.append(object_table(document, schemas[name]))
    return "\n".join(parts)


def object_anchor(name: str) -> str:
    """Return the link target of an object of the API."""
    return f"object-{name.lower()}"


def link_object(title: str) -> str:
    """Return a link to an object of the API."""
    return f"[{title}](#{object_anchor(title)})"


def operation_text(document: Schema, path: str, method: str, operation: Schema) -> str:
    """Return heading, description, parameters, body and answer of one address."""
    parts = [f"### `{method.upper()} {path}`\n", paragraphs(operation.get("description")), ""]
    rows = [
        (
            code(parameter["name"]),
            parameter["in"],
            describe_type(document, parameter.get("schema", {}), link_object),
            "yes" if parameter.get("required") else "",
            parameter.get("description", ""),
        )
        for parameter in operation.get("parameters", ())
    ]
    for media, body in operation.get("requestBody", {}).get("content", {}).items():
        schema = resolve(document, body.get("schema", {}))
        for name, field in schema.get("properties", {}).items():
            is_required = "yes" if name in schema.get("required", ()) else ""
            place = "body" if media.endswith("json") else "form"
            meaning = field.get("description", "")
            value = describe_type(document, field, link_object)
            rows.append((code(name), place, value, is_required, meaning))
    if rows:
        parts.append(table(("parameter", "in", "value", "required", "meaning"), rows))
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            content = answer.get("content", {})
            kinds = ", ".join(code(media) for media in content) or "no content"
            schema = next((body.get("schema") for body in content.values()), None)
            value = describe_type(document, schema or {}, link_object)
            described = f": {value}" if schema else ""
            parts.append(f"Answer {status}, {kinds}{described}.\n")
    return "\n".join(parts)


def object_table(document: Schema, schema: Schema) -> str:
    """Return the fields of an object of the API."""
    meanings = attribute_meanings(schema)
    return table(
        ("field", "value", "meaning"),
        (
            (
                code(name),
                describe_type(document, field, link_object),
                field.get("description", meanings.get(name, "")),
            )
            for name, field in schema["properties"].items()
        ),
    )


# --- Python API -----------------------------------------------------------------------------------


def api_reference() -> str:
    """Return the documentation of every name in ``qc.__all__``."""
    import qc

    names = [name for name in getattr(qc, "__all__", ()) if not name.startswith("__")]
    lines = [".. currentmodule:: qc", "", ".. autosummary::", "   :nosignatures:", ""]
    lines += [*(f"   {name}" for name in names), ""]
    for name in names:
        target = getattr(qc, name)
        is_class = isinstance(target, type)
        if is_class and target.__name__ != name:  # autodoc would only state the other name
            target.__name__ = target.__qualname__ = name
        # Defaults without a readable text make the signature useless.
        is_unreadable = is_dataclass(target) and " object>" in str(inspect.signature(target))
        signature = "()" if is_unreadable else ""
        lines.append(f".. auto{'class' if is_class else 'function'}:: {name}{signature}")
        lines += ["   :members:"] if is_class else []
        lines += ["   :undoc-members:"] if is_class and issubclass(target, Enum) else []
        lines.append("")
    return "\n".join(["```{eval-rst}", *lines, "```"]) if names else ""


GENERATORS: Mapping[str, Callable[[], str]] = {
    "accuracy": accuracy_reference,
    "api": api_reference,
    "commands": commands_reference,
    "database": database_reference,
    "errors": errors_reference,
    "instruments": instruments_reference,
    "layers": layers_reference,
    "metrics": metrics_reference,
    "rest": rest_reference,
    "settings": settings_reference,
    "thresholds": thresholds_reference,
}


def replace_markers(app: Sphinx, name: str, content: list[str]) -> None:
    """Replace each marker of a page by its generated text."""
    del app, name
    content[0] = MARKER.sub(lambda match: GENERATORS[match[1]](), content[0])


def pages_with_markers(app: Sphinx, environment: BuildEnvironment, *_changes: object) -> list[str]:
    """Return the pages to read again in every build: the program may have changed."""
    del app
    return [
        name
        for name in sorted(environment.found_docs)
        if MARKER.search(Path(environment.doc2path(name)).read_text(encoding="utf-8"))
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("source-read", replace_markers)
    app.connect("env-get-outdated", pages_with_markers)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
