"""The report of a night, as it was written to disk."""

from datetime import date
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from qc.errors import UnknownFrameError
from qc.settings import Settings
from qc.web.auth import Anybody
from qc.web.rendering import ProjectDep

router = APIRouter(include_in_schema=False)


@router.get("/reports/{night}")
def report(project: ProjectDep, night: date, _who: Anybody) -> FileResponse:
    """Show the report of a night."""
    file = report_file(project.settings, night)
    if not file.is_file():
        raise UnknownFrameError(
            f"{night}: there is no report of this night; 'qc report --night {night}' writes it"
        )
    headers = {"Cache-Control": "no-store"}  # it is written anew as people answer
    return FileResponse(file, media_type="text/html", headers=headers)


def report_file(settings: Settings, night: date) -> Path:
    """Return where the report of a night is, if it was written."""
    return settings.reports_folder / f"{night}.html"
