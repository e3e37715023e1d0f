from dataclasses import replace

from qc.core.enums import NotificationKind
from qc.core.verdict import Status
from tests.alerts.gathering import (
    DAY,
    KIM,
    Dispatcher,
)
from tests.support.alert_rows import (
    APART,
    DIM,
    LEVEL,
    NIGHT,
    NOISE,
    Shot,
    add_alerts,
    template_set,
)


def dead_chip(minute: float, image_type: str, reason: str) -> list[Shot]:
    """A set of files whose upper chip is bad, and the lower as it should be."""
    upper = [
        Shot(minute + n, image_type=f"{image_type}1", reasons=(reason,), template=f"t{minute}")
        for n in range(3)
    ]
    upper = [replace(shot, frame=f"{image_type}{shot.minute}") for shot in upper]
    lower = [
        replace(shot, image_type=f"{image_type}2", chip="REDL", number=2, status=Status.NOMINAL)
        for shot in upper
    ]
    return upper + lower


def anomalies(*vectors: tuple[float, ...], **options: float) -> list[Shot]:
    return [
        Shot(5.0 * n, vector=vector, reasons=(APART,), merge_height=options.get("apart", 0.02))
        for n, vector in enumerate(vectors)
    ]


def test_event_of_template_set_is_one_notification_and_one_mail(project, dispatcher):
    add_alerts(project, *template_set(5))
    assert dispatcher.gather() == 1
    assert dispatcher.notifications() == [(NotificationKind.EVENT, 5)]
    assert dispatcher.recipients() == [(1, KIM)]


def test_subject_has_type_night_counts_and_deviation(project, dispatcher):
    add_alerts(
        project,
        *template_set(3),
        *template_set(2, start=2, template="set 0", status=Status.NOMINAL),
    )
    dispatcher.gather()
    [subject] = dispatcher.subjects()
    assert subject == ("[QC] URB1 2026-11-19: 3 of 5 biases anomalous, REDU, bias level 206.20 ADU")


def test_event_of_template_set_with_different_faults(project, dispatcher):
    add_alerts(
        project, *template_set(2), *template_set(2, start=1, template="set 0", reasons=(NOISE,))
    )
    assert dispatcher.gather() == 1


def test_event_of_template_set_with_same_fault_on_both_chips(project, dispatcher):
    for frame in ("a", "b"):
        both = Shot(frame=frame, template="t", reasons=(DIM,), image_type="URW1", number=1)
        add_alerts(project, both, replace(both, image_type="URW2", chip="REDL", number=2))
    assert dispatcher.gather() == 1


def test_events_of_different_faults_on_two_chips(project, dispatcher):
    level = template_set(5)
    noise = template_set(5, start=10, chip="REDL", image_type="URB2", reasons=(NOISE,))
    add_alerts(project, *level, *noise)
    assert dispatcher.gather() == 2


def test_events_of_one_file_with_different_faults_on_two_chips(project, dispatcher):
    shot = Shot(frame="a", template="t", reasons=(LEVEL,))
    add_alerts(
        project, shot, replace(shot, image_type="URB2", chip="REDL", number=2, reasons=(NOISE,))
    )
    assert dispatcher.gather() == 2


def test_events_of_different_faults_in_one_image_type(project, dispatcher):
    add_alerts(project, *template_set(5), *template_set(5, start=10, reasons=(NOISE,)))
    assert dispatcher.gather() == 2


def test_events_of_deviations_with_opposite_signs(project, dispatcher):
    bright = DIM.replace("-0.510", "0.510").replace("-51.0", "+51.0")
    add_alerts(
        project, *template_set(2, reasons=(DIM,)), *template_set(2, start=10, reasons=(bright,))
    )
    assert dispatcher.gather() == 2


def test_events_of_hot_columns_by_place(project, dispatcher):
    at = "the level of a column around x {}, y {} stands out, 90.0 sigma beyond its references"
    places = [(100, 30), (101, 1900), (800, 40)]
    add_alerts(project, *(Shot(n, reasons=(at.format(x, y),)) for n, (x, y) in enumerate(places)))
    dispatcher.gather()
    assert sorted(count for _, count in dispatcher.notifications()) == [1, 2]


def test_event_of_one_cause_on_one_chip_spans_image_types(project, dispatcher):
    jump = [
        Shot(0, reasons=(LEVEL,)),
        Shot(5, image_type="URW1", reasons=(LEVEL, DIM)),
        Shot(9, image_type="UD1RF1", reasons=(NOISE, LEVEL)),
    ]
    add_alerts(project, *jump[:2])
    assert dispatcher.gather() == 1
    add_alerts(project, jump[2])  # its first cause is new: a second notification
    assert dispatcher.gather() == 1


def test_event_of_classified_fault_kind_on_one_chip(project, dispatcher):
    add_alerts(project, Shot(0, kind="light_leak"), Shot(5, kind="light_leak", reasons=(NOISE,)))
    assert dispatcher.gather() == 1
    assert Dispatcher(project).notifications() == [(NotificationKind.EVENT, 2)]


def test_dead_chip_is_one_notification(project, dispatcher):
    sets = (("URB", NOISE), ("UD1RF", DIM), ("URW", "line count 0 lines, -30.0 sigma from its"))
    for number, (image_type, reason) in enumerate(sets):
        add_alerts(project, *dead_chip(10.0 * number, image_type, reason))
    assert dispatcher.gather() == 1


def test_dead_chip_later_frames_join_the_notification(project, dispatcher):
    add_alerts(project, *dead_chip(0, "URB", NOISE))
    dispatcher.gather(5)
    dispatcher.mark_sent(5)
    add_alerts(project, *dead_chip(10, "UD1RF", DIM))
    dispatcher.gather(15)
    assert dispatcher.notifications() == [(NotificationKind.EVENT, 6)]
    assert dispatcher.recipients() == [(1, KIM)]


def test_dead_chip_requires_no_nominal_frame_in_between(project, dispatcher):
    add_alerts(project, *dead_chip(0, "URB", NOISE), Shot(5, status=Status.NOMINAL))
    add_alerts(project, *dead_chip(10, "UD1RF", DIM))
    assert dispatcher.gather() == 2


def test_event_of_nearest_neighbours(project, dispatcher):
    add_alerts(project, *anomalies((1, 0.2, 0), (1, 0.21, 0)))  # 0.00005 apart, the references 0.02
    assert dispatcher.gather() == 1


def test_events_of_embeddings_in_different_directions(project, dispatcher):
    add_alerts(project, *anomalies((1, 0.2, 0), (1, 0, 0.2)))  # 0.04 apart, the references 0.02
    assert dispatcher.gather() == 2


def test_event_of_embeddings_in_one_direction(project, dispatcher):
    add_alerts(project, *anomalies((1, 0.2, 0), (1, 0.3, 0)))  # 0.004 apart
    assert dispatcher.gather() == 1


def test_events_of_embeddings_near_references_are_not_linked(project, dispatcher):
    add_alerts(project, *anomalies((1, 0, 0), (1, 0, 0), apart=0.0005))
    assert dispatcher.gather() == 2


def test_events_are_separate_by_night_and_instrument(project, dispatcher):
    tomorrow = NIGHT + DAY
    add_alerts(project, Shot(0), Shot(1, night=tomorrow), Shot(2, instrument="EFOSC2"))
    assert dispatcher.gather() == 3


def test_event_waits_for_further_frames(project, dispatcher):
    add_alerts(project, Shot(0))
    assert dispatcher.gather(0.3) == 0
    assert dispatcher.gather(0.34) == 1  # 20 s


def test_event_with_continuous_frames_waits_twice_as_long_at_most(project, dispatcher):
    shots = template_set(5, step=0.15)  # 9 s after each other: never quiet for 20
    add_alerts(project, *shots[:4])
    assert dispatcher.gather(0.6) == 0
    add_alerts(project, shots[4])
    assert dispatcher.gather(0.67) == 1


def test_event_is_ready_when_clock_is_set_back(project, dispatcher):
    add_alerts(project, Shot(0))
    assert dispatcher.gather(-24 * 60) == 1
