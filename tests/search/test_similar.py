import numpy as np
import pytest

from embeddings.clustering import cosine_distances
from qc import db
from qc.core.enums import LabelName
from qc.core.verdict import Status
from qc.errors import InvalidInputError, UnknownFrameError, UnreadableFrameError
from qc.search.similar import similar
from tests.support.remembered import Past, remember
from tests.support.tiny import (
    MERGE_HEIGHT,
    StandIn,
    light_leak,
    process,
    write_frame,
    write_history,
)

DEAD_LAMP = Past(
    vector=(1, 0.02),
    label=LabelName.BAD,
    kind="lamp_dead",
    note="lamp exchanged",
    status=Status.ANOMALOUS,
)


def angles(*degrees: float, **changes) -> list[Past]:
    """Frames whose embeddings point so far away from the first axis."""
    return [
        Past(vector=(float(np.cos(each)), float(np.sin(each))), **changes)
        for each in np.radians(degrees)
    ]


def names(likeness) -> list[str]:
    return [one.name for one in likeness.neighbours]


def test_the_nearest_come_first_and_the_frame_itself_is_left_out(project):
    remember(project, *angles(0, 30, 10, 20))
    [found] = similar(project, "TINY.0", 2)
    assert names(found) == ["TINY.2[0]", "TINY.3[0]"]
    expected = 1 - np.cos(np.radians([10, 20]))
    assert [one.distance for one in found.neighbours] == pytest.approx(expected, rel=0.01)
    assert found.threshold == MERGE_HEIGHT


def test_what_people_said_is_told_in_words(project):
    remember(project, Past(), DEAD_LAMP)
    [found] = similar(project, "TINY.0", 5)
    [sentence] = found.sentences()
    told, _, words = sentence.partition(": ")
    where = "TINY.1[0] of the night 2026-01-01 (0.0002, 0.2 thresholds)"
    assert told == f"TINY.0[0] (TB0) is most like {where}"
    assert words == "judged ANOMALOUS, labelled bad (lamp dead), “lamp exchanged”."


def test_the_nearest_that_was_bad_is_told_beside_the_nearest(project):
    remember(project, Past(), Past(vector=(1, 0.01)), DEAD_LAMP)
    [found] = similar(project, "TINY.0", 5)
    nearest, bad = found.sentences()
    assert "most like TINY.1[0]" in nearest
    assert nearest.endswith("judged NOMINAL, nobody has labelled it.")
    assert bad.startswith("Of these, the nearest that was called bad is TINY.2[0] of the night")


def test_its_own_image_type_is_searched_or_a_pattern_or_all(project):
    remember(project, Past(), Past(image_type="TF0"), Past(image_type="TF0"), *angles(5))
    counts = {
        wanted: len(similar(project, "TINY.0", 9, image_type=wanted)[0].neighbours)
        for wanted in (None, "any", "T*", "TF0", "tf0", "TB?")
    }
    assert counts == {None: 1, "any": 3, "T*": 3, "TF0": 2, "tf0": 2, "TB?": 1}


def test_only_labelled_frames_are_searched_if_asked(project):
    remember(project, Past(), *angles(1, 2), DEAD_LAMP)
    [found] = similar(project, "TINY.0", 9, labelled=True)
    assert names(found) == ["TINY.3[0]"]


def test_embeddings_of_another_encoder_are_not_compared(project):
    remember(project, Past(), Past(encoder="another"), Past(vector=(1, 0.5)))
    assert names(similar(project, "TINY.0", 9)[0]) == ["TINY.2[0]"]
    with pytest.raises(
        UnknownFrameError, match=r"TINY\.1\[0\]: has no embedding by the encoder in use"
    ):
        similar(project, "TINY.1", 9)


def test_the_only_frame_has_nothing_to_compare_it_with(project):
    remember(project, Past())
    [found] = similar(project, "TINY.0", 9)
    assert found.sentences() == ["TINY.0[0] (TB0): there is nothing to compare it with."]


def test_a_file_that_is_not_stored_is_read_and_not_stored(project, inbox):
    history = write_history(inbox, frames=4)
    process(project, *history)
    [first] = process(project, write_frame(inbox, night=2, change=light_leak))
    again = write_frame(inbox, night=3, change=light_leak)
    [found] = similar(project, str(again), 3)
    assert names(found)[0] == f"{first.path.stem}[0]"
    assert found.neighbours[0].distance < found.neighbours[1].distance
    assert len(similar(project, str(again), 99)[0].neighbours) == 5


def test_a_copy_of_a_stored_file_is_not_its_own_neighbour(project, inbox, tmp_path):
    history = write_history(inbox, frames=4)
    process(project, *history)
    copy = tmp_path / "copy.fits"
    copy.write_bytes(history[0].read_bytes())
    for asked in (copy, history[0], history[0].stem):
        [found] = similar(project, str(asked), 9)
        assert sorted(names(found)) == [f"{path.stem}[0]" for path in history[1:]]


def test_distances_are_those_of_the_stored_embeddings(project, inbox):
    process(project, *write_history(inbox, frames=3))
    with project.reads() as session:
        [(_, vectors)] = list(db.embeddings.vectors(session, StandIn.fingerprint))
    expected = np.sort(cosine_distances(vectors[1:], vectors[:1])[:, 0])
    [found] = similar(project, next(iter(sorted(inbox.iterdir()))).stem, 9)
    assert [one.distance for one in found.neighbours] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("frame", "changes", "error", "words"),
    [
        (
            "TINY.9",
            {},
            UnknownFrameError,
            "TINY.9: neither the archive name, file name or path of a",
        ),
        ("TINY.0", {"extension": 3}, UnknownFrameError, "TINY.0: has no extension 3; it has 0"),
        (
            "TINY.0",
            {"image_type": "TB1"},
            InvalidInputError,
            "'TB1' is no image type; did you mean TB",
        ),
    ],
)
def test_what_cannot_be_asked_is_told(project, frame, changes, error, words):
    remember(project, Past())
    with pytest.raises(error) as told:
        similar(project, frame, 3, **changes)
    assert words in str(told.value)


def test_a_file_that_is_no_frame_is_told(project, inbox):
    (inbox / "x.fits").write_bytes(b"?")
    with pytest.raises(UnreadableFrameError, match=r"x\.fits"):
        similar(project, str(inbox / "x.fits"), 3)


def test_blocks_of_the_history_are_bounded_and_complete(project):
    remember(project, *angles(*np.linspace(0, 90, 2100)))
    with project.reads() as session:
        sizes = [len(ids) for ids, _ in db.embeddings.vectors(session, StandIn.fingerprint)]
    assert sum(sizes) == 2100
    assert max(sizes) <= 2000
