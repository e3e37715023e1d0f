"""REST: similar frames of a stored frame or an uploaded file."""

from dataclasses import asdict
from typing import Annotated, Any

import fastapi
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from qc import db, errors
from qc.project import ProjectContext
from qc.search import similar
from qc.web import auth, deps, query
from qc.web.api import schemas, uploads

router = fastapi.APIRouter(prefix="/api/v1", route_class=uploads.UploadRoute)

_FORM_FIELDS = ("k", "type", "labelled", "since", "until")
_K_WORDS = "Number of neighbours."
_TYPE_WORDS = "Image type to search; default: the type of the frame."
_LABELLED_WORDS = "Search labelled extensions only."
_UPLOAD_SCHEMA = {  # the form is read by hand, with limits
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "FITS file.",
                        },
                        "k": {
                            "type": "integer",
                            "minimum": 1,
                            "maximum": 100,
                            "default": 12,
                            "description": _K_WORDS,
                        },
                        "type": {
                            "type": "string",
                            "maxLength": 40,
                            "description": _TYPE_WORDS,
                        },
                        "labelled": {
                            "type": "boolean",
                            "default": False,
                            "description": _LABELLED_WORDS,
                        },
                    },
                }
            }
        },
    }
}


class SimilarQuery(query.QueryModel):
    """A frame, and the extensions among which to search."""

    frame: Annotated[
        str,
        Field(max_length=deps.LONGEST_NAME, description="Archive name of a processed frame."),
    ] = ""
    k: Annotated[int, Field(ge=1, le=100, description=_K_WORDS)] = 12
    type: Annotated[str, Field(max_length=40, description=_TYPE_WORDS)] = ""
    labelled: Annotated[bool, Field(description=_LABELLED_WORDS)] = False
    since: query.Since = None
    until: query.Until = None


def find_similar(
    project: ProjectContext, frame: str, similar_query: SimilarQuery
) -> list[similar.SimilarFrames]:
    """Return the similar frames of each extension of a frame.

    Parameters
    ----------
    project : ProjectContext
    frame : str
        Name of a stored frame, or path of a file.
    similar_query : SimilarQuery
    """
    return similar.find_similar(
        project,
        frame,
        similar_query.k,
        image_type=similar_query.type or None,
        labelled=similar_query.labelled,
        first=similar_query.since,
        last=similar_query.until,
    )


def find_similar_to_stored(
    project: ProjectContext, session: Session, similar_query: SimilarQuery
) -> list[similar.SimilarFrames]:
    """Return the similar frames of each extension of a stored frame.

    Parameters
    ----------
    project : ProjectContext
    session : Session
        For reading.
    similar_query : SimilarQuery

    Raises
    ------
    UnknownFrameError
        If the frame has not been processed; a path on the server is refused here.
    """
    frame = similar_query.frame
    if not db.extensions.frames_named(session, frame):
        raise errors.UnknownFrameError(f"{frame}: no processed frame has this name")
    return find_similar(project, frame, similar_query)


async def find_similar_to_upload(
    request: fastapi.Request, project: ProjectContext
) -> tuple[list[similar.SimilarFrames], SimilarQuery]:
    """Return the similar frames of each extension of an uploaded file, and the query.

    Parameters
    ----------
    request : Request
        With a multipart form.
    project : ProjectContext

    Raises
    ------
    InvalidInputError
        If the form has no file or an invalid field.
    HTTPException
        With status 422 if the file cannot be read.
    """
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile) or not file.size:
            raise errors.InvalidInputError("file: expected a FITS file, got none")
        fields = {name: form[name] for name in _FORM_FIELDS if form.get(name)}
        try:
            similar_query = SimilarQuery.model_validate(fields)
        except ValueError:
            raise errors.InvalidInputError(
                "expected k from 1 to 100, the name of an image type, and dates"
            ) from None
        async with uploads.save_temporarily(file) as path:
            try:
                frames = await run_in_threadpool(find_similar, project, str(path), similar_query)
            except errors.FrameError as error:  # the message begins with the temporary path
                message = str(error).replace(str(path), "the file")
                raise fastapi.HTTPException(422, message) from None
            return frames, similar_query


@router.get("/similar", response_model=list[schemas.SimilarFramesModel])
def similar_to_stored(
    project: deps.ReloadedProject,
    session: deps.ReadSession,
    similar_query: Annotated[SimilarQuery, fastapi.Query()],
    _user: auth.User,
) -> list[dict[str, Any]]:
    """Return the nearest neighbours of a stored frame.

    Parameters
    ----------
    project, session : dependencies
    similar_query : SimilarQuery
    """
    if not similar_query.frame:
        raise errors.InvalidInputError("frame: expected the name of a processed frame, got none")
    frames = find_similar_to_stored(project, session, similar_query)
    return [asdict(similar_frames) for similar_frames in frames]


@router.post(
    "/similar", openapi_extra=_UPLOAD_SCHEMA, response_model=list[schemas.SimilarFramesModel]
)
async def similar_to_upload(
    request: fastapi.Request, project: deps.ReloadedProject, _user: auth.User
) -> list[dict[str, Any]]:
    """Return the nearest neighbours of a FITS file in the form field `file`.

    Parameters
    ----------
    request, project : dependencies
    """
    frames, _ = await find_similar_to_upload(request, project)
    return [asdict(similar_frames) for similar_frames in frames]
