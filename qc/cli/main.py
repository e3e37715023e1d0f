"""The command line: parse, call one function, print, exit code.

Exit codes: 0 nominal, 1 anomalies found (or a classifier refused), 2 a mistake, said in one line.

Imports stand inside the commands: ``qc --help`` answers at once, though what the commands need
takes seconds to load.
"""

import logging
import os
import sys
import traceback

from rich.text import Text

from qc.cli.options import MISTAKE, app, err


def main() -> None:
    """Run the command; end a mistake in one line, and a bug in full. Neither is exit code 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greetings are no news
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except Exception as error:  # noqa: BLE001 - told in full, unless it is a mistake
        mistake = _mistake(error)
        if mistake:
            err.print(Text("qc:", "bold red"), mistake, soft_wrap=True)
        else:
            traceback.print_exc()
        sys.exit(MISTAKE)


# What SQLite, too, calls operational: a full disk, a lock held for a minute, a table that is gone.
_OPERATORS = {
    "42501": "no privilege",
    "42P01": "no such table",
    "25006": "a server that only reads",
}


def _mistake(error: Exception) -> str:
    """Say in one line what is the user's or the machine's to mend; nothing of a bug."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    from embeddings.encoder import WeightsError
    from qc.errors import QCError

    state = getattr(error.orig, "sqlstate", "") if isinstance(error, DBAPIError) else ""
    if isinstance(error, OperationalError) or state in _OPERATORS:
        error = ConnectionError(f"the database: {getattr(error, 'orig', error)}")
    known = isinstance(error, QCError | WeightsError | OSError)
    return " ".join(str(error).split()) if known else ""
