"""Night reports that have been written to disk."""

from datetime import date

from fastapi import APIRouter
from fastapi.responses import FileResponse

from qc.errors import UnknownFrameError
from qc.settings import Settings
from qc.web import auth, deps

router = APIRouter(include_in_schema=False)


@router.get("/reports/{night}")
def report(project: deps.CurrentProject, night: date, _user: auth.User) -> FileResponse:
    """Show the report of a night.

    Parameters
    ----------
    project : ProjectContext
    night : date
        Date of the evening.
    """
    path = project.settings.reports_folder / f"{night}.html"
    if not path.is_file():
        raise UnknownFrameError(
            f"{night}: no report of this night; write it with 'qc report night --night {night}'"
        )
    headers = {"Cache-Control": "no-store"}  # rewritten after each label
    return FileResponse(path, media_type="text/html", headers=headers)


def has_report(settings: Settings, night: date) -> bool:
    """Return True if the report of a night is on disk.

    Parameters
    ----------
    settings : Settings
    night : date
    """
    return (settings.reports_folder / f"{night}.html").is_file()
