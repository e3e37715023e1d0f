"""Entry point of the command line.

Exit codes: 0 nominal; 1 anomalies, open alerts or a refused classifier; 2 error, in one line.
Commands import the packages that they use when they run, so that ``qc --help`` answers at once.
"""

import gc
import logging
import os
import sys
import traceback
from typing import Annotated

import typer

# Each module registers its commands; legacy comes last.
from qc.cli import (  # noqa: F401 - imported for their commands
    administration,
    alerts,
    archive,
    classifier,
    frames,
    labels,
    legacy,
    reports,
    service,
    thresholds,
)
from qc.cli.options import ERROR, app, err

# PostgreSQL's codes of errors that an operator repairs: SQLite calls them operational errors.
OPERATOR_SQLSTATES = {
    "42501": "no privilege",
    "42P01": "no such table",
    "25006": "read-only server",
}


def print_version(requested: bool) -> None:
    """Print the version and exit."""
    if requested:
        from importlib.metadata import version

        print(f"qc {version('calibration-qc')}")  # noqa: T201
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Detect anomalies in the calibration frames of UVES."""


def main() -> None:
    """Run the command line; report an expected error in one line and a bug with its traceback."""
    gc.set_threshold(50_000)  # imports create many objects and little garbage
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides TensorFlow's start-up messages
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except Exception as error:  # noqa: BLE001 - expected errors become one line, bugs a traceback
        message = error_message(error)
        if message:
            from rich.text import Text

            err.print(Text("qc:", "bold red"), message, soft_wrap=True)
        else:
            traceback.print_exc()
        sys.exit(ERROR)


def error_message(error: Exception) -> str:
    """Return the one-line message of an error of the user or machine; empty for a bug."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    from embeddings.encoder import WeightsError
    from qc.errors import QCError

    state = getattr(error.orig, "sqlstate", "") if isinstance(error, DBAPIError) else ""
    if isinstance(error, OperationalError) or state in OPERATOR_SQLSTATES:
        error = ConnectionError(f"the database: {getattr(error, 'orig', error)}")
    is_expected = isinstance(error, QCError | WeightsError | OSError)
    return " ".join(str(error).split()) if is_expected else ""
