"""PDF files of reports by WeasyPrint, an optional dependency, without network access."""

import logging
from pathlib import Path

from qc._files import atomic_writer
from qc.errors import ConfigurationError

INSTALL = "pip install 'calibration-qc[pdf]', and the system's pango library (libpango-1.0-0)"


def write_pdf(page: str, file: Path) -> Path:
    """Write an HTML page as PDF; the previous file stays until the new one is complete.

    Parameters
    ----------
    page : str
        Self-contained HTML: only ``data:`` URLs are loaded.
    file : Path
        PDF file; its folder is created.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigurationError
        If WeasyPrint or one of its libraries is not installed.
    """
    try:
        import weasyprint  # noqa: PLC0415 - slow, and an optional dependency
        from weasyprint.urls import URLFetcher  # noqa: PLC0415
    except (ImportError, OSError) as error:  # OSError: a library of the system is missing
        reason = " ".join(str(error).split())[:200]
        raise ConfigurationError(f"{file}: a PDF needs WeasyPrint ({reason}): {INSTALL}") from error
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs each table of each font
    document = weasyprint.HTML(string=page, url_fetcher=URLFetcher(allowed_protocols=("data",)))
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(file) as stream:
        document.write_pdf(stream)
    return file
