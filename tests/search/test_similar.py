import numpy as np
import pytest

from embeddings.clustering import cosine_distances
from qc import db
from qc.core.enums import LabelName
from qc.core.verdict import Status
from qc.errors import InvalidInputError, UnknownFrameError, UnreadableFrameError
from qc.search.similar import find_similar
from tests.support.tiny_spectrograph import (
    MERGE_HEIGHT,
    StandIn,
    light_leak,
    process,
    write_frame,
    write_history,
)
from tests.support.verdict_rows import StoredExtension, add_extensions

DEAD_LAMP = StoredExtension(
    vector=(1, 0.02),
    label=LabelName.BAD,
    kind="lamp_dead",
    note="lamp exchanged",
    status=Status.ANOMALOUS,
)


def angles(*degrees: float, **changes) -> list[StoredExtension]:
    """Frames whose embeddings point at given angles from the first axis."""
    return [
        StoredExtension(vector=(float(np.cos(angle)), float(np.sin(angle))), **changes)
        for angle in np.radians(degrees)
    ]


def names(result) -> list[str]:
    return [neighbour.name for neighbour in result.neighbours]


def test_find_similar_sorts_by_distance_without_the_frame_itself(project):
    add_extensions(project, *angles(0, 30, 10, 20))
    [result] = find_similar(project, "TINY.0", 2)
    assert names(result) == ["TINY.2[0]", "TINY.3[0]"]
    expected = 1 - np.cos(np.radians([10, 20]))
    assert [neighbour.distance for neighbour in result.neighbours] == pytest.approx(
        expected, rel=0.01
    )
    assert result.threshold == MERGE_HEIGHT


def test_sentences_contain_the_label(project):
    add_extensions(project, StoredExtension(), DEAD_LAMP)
    [result] = find_similar(project, "TINY.0", 5)
    [sentence] = result.sentences()
    subject, _, assessment = sentence.partition(": ")
    where = "TINY.1[0] of the night 2026-01-01 (0.0002, 0.2 thresholds)"
    assert subject == f"TINY.0[0] (TB0) is most like {where}"
    assert assessment == "judged ANOMALOUS, labelled bad (lamp dead), “lamp exchanged”."


def test_sentences_contain_the_nearest_bad_frame(project):
    add_extensions(project, StoredExtension(), StoredExtension(vector=(1, 0.01)), DEAD_LAMP)
    [result] = find_similar(project, "TINY.0", 5)
    nearest, bad = result.sentences()
    assert "most like TINY.1[0]" in nearest
    assert nearest.endswith("judged NOMINAL, not labelled.")
    assert bad.startswith("Of these, the nearest labelled bad is TINY.2[0] of the night")


def test_find_similar_by_image_type_or_pattern(project):
    add_extensions(
        project,
        StoredExtension(),
        StoredExtension(image_type="TF0"),
        StoredExtension(image_type="TF0"),
        *angles(5),
    )
    counts = {
        pattern: len(find_similar(project, "TINY.0", 9, image_type=pattern)[0].neighbours)
        for pattern in (None, "any", "T*", "TF0", "tf0", "TB?")
    }
    assert counts == {None: 1, "any": 3, "T*": 3, "TF0": 2, "tf0": 2, "TB?": 1}


def test_find_similar_among_labelled_frames(project):
    add_extensions(project, StoredExtension(), *angles(1, 2), DEAD_LAMP)
    [result] = find_similar(project, "TINY.0", 9, labelled=True)
    assert names(result) == ["TINY.3[0]"]


def test_find_similar_ignores_other_encoders(project):
    add_extensions(
        project,
        StoredExtension(),
        StoredExtension(encoder="another"),
        StoredExtension(vector=(1, 0.5)),
    )
    assert names(find_similar(project, "TINY.0", 9)[0]) == ["TINY.2[0]"]
    with pytest.raises(
        UnknownFrameError, match=r"TINY\.1\[0\]: has no embedding by the encoder in use"
    ):
        find_similar(project, "TINY.1", 9)


def test_sentences_of_the_only_frame(project):
    add_extensions(project, StoredExtension())
    [result] = find_similar(project, "TINY.0", 9)
    assert result.sentences() == ["TINY.0[0] (TB0): there is nothing to compare it with."]


def test_find_similar_to_a_file_does_not_store_it(project, inbox):
    history = write_history(inbox, frames=4)
    process(project, *history)
    [first] = process(project, write_frame(inbox, night=2, change=light_leak))
    again = write_frame(inbox, night=3, change=light_leak)
    [result] = find_similar(project, str(again), 3)
    assert names(result)[0] == f"{first.path.stem}[0]"
    assert result.neighbours[0].distance < result.neighbours[1].distance
    assert len(find_similar(project, str(again), 99)[0].neighbours) == 5


def test_find_similar_to_a_copy_leaves_out_the_original(project, inbox, tmp_path):
    history = write_history(inbox, frames=4)
    process(project, *history)
    copy = tmp_path / "copy.fits"
    copy.write_bytes(history[0].read_bytes())
    for name in (copy, history[0], history[0].stem):
        [result] = find_similar(project, str(name), 9)
        assert sorted(names(result)) == [f"{path.stem}[0]" for path in history[1:]]


def test_find_similar_has_distances_of_stored_embeddings(project, inbox):
    process(project, *write_history(inbox, frames=3))
    with project.read_session() as session:
        [(_, vectors)] = list(db.embeddings.iterate_vectors(session, StandIn.fingerprint))
    expected = np.sort(cosine_distances(vectors[1:], vectors[:1])[:, 0])
    [result] = find_similar(project, next(iter(sorted(inbox.iterdir()))).stem, 9)
    assert [neighbour.distance for neighbour in result.neighbours] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("frame", "changes", "error", "message"),
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
def test_find_similar_with_wrong_input_is_an_error(project, frame, changes, error, message):
    add_extensions(project, StoredExtension())
    with pytest.raises(error) as raised:
        find_similar(project, frame, 3, **changes)
    assert message in str(raised.value)


def test_find_similar_to_a_damaged_file_is_an_error(project, inbox):
    (inbox / "x.fits").write_bytes(b"?")
    with pytest.raises(UnreadableFrameError, match=r"x\.fits"):
        find_similar(project, str(inbox / "x.fits"), 3)


@pytest.mark.slow
def test_iterate_vectors_yields_bounded_blocks(project):
    add_extensions(project, *angles(*np.linspace(0, 90, 2100)))
    with project.read_session() as session:
        sizes = [len(ids) for ids, _ in db.embeddings.iterate_vectors(session, StandIn.fingerprint)]
    assert sum(sizes) == 2100
    assert max(sizes) <= 2000
