"""A page as PDF: by WeasyPrint, which is an extra, and never with the network's help."""

import logging
from pathlib import Path

from qc._files import written_whole
from qc.errors import ConfigurationError

INSTALL = "pip install 'calibration-qc[pdf]', and the system's pango library (libpango-1.0-0)"


def write_pdf(page: str, file: Path) -> Path:
    """Write an HTML page as PDF; what was there stays until the new one is whole.

    Parameters
    ----------
    page : str
        HTML, complete in itself: what is not in it, as ``data:``, is not in the PDF.

    Raises
    ------
    ConfigurationError
        If WeasyPrint or a library that it needs is not installed.
    """
    try:
        import weasyprint  # noqa: PLC0415 - slow to load, and an extra that may not be there
        from weasyprint.urls import URLFetcher  # noqa: PLC0415
    except (ImportError, OSError) as error:  # OSError: it is there, a library of the system is not
        reason = " ".join(str(error).split())[:200]
        raise ConfigurationError(f"{file}: a PDF needs WeasyPrint ({reason}): {INSTALL}") from error
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every table of every font
    document = weasyprint.HTML(string=page, url_fetcher=URLFetcher(allowed_protocols=("data",)))
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as stream:
        document.write_pdf(stream)
    return file
