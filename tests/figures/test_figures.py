import io
import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from scipy.cluster.hierarchy import linkage

from qc.figures import classification, dendrogram, drawing, images, profile, thresholds, trends

START = datetime(2017, 1, 1, 11, tzinfo=UTC)


def opened(png: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return picture


def linear(statistic, aspect=1.0, overlay=None) -> bytes:
    """Draw a thumbnail from 0 ADU, black, to 100 ADU, white, with a nearly linear stretch."""
    return images.draw_thumbnail(
        np.array(statistic, float),
        zero_adu=0,
        scale_adu=1e6,
        aspect=aspect,
        vmin=0,
        vmax=100,
        overlay=overlay,
    )


def grey(png: bytes):
    return np.asarray(opened(png).convert("L")).astype(int)


def tree(n: int, *, odd: float = 0.0) -> str:
    """Draw the dendrogram of n similar embeddings; the last deviates by `odd`."""
    embeddings = 1 + 0.005 * np.random.default_rng(0).normal(size=(n, 32))
    embeddings[-1, :8] += odd
    merges = linkage(embeddings, "average", metric="cosine")
    return dendrogram.draw_dendrogram(merges, threshold=0.0004, marked=n - 1)


def history(n: int, *, statuses=("nominal", "anomalous", "undecided"), **options) -> str:
    times = [START + timedelta(days=day) for day in range(n)]
    values = np.linspace(200, 201, n)
    repeated = [statuses[i % len(statuses)] for i in range(n)]
    return trends.draw_trend(
        times, values, repeated, title="UBB0 bias level", unit="ADU", **options
    )


def band(n: int = 4096, *, spike: float = 0.0) -> str:
    middle = 200 + 50 * np.sin(np.arange(n) / 30)
    new = middle.copy()
    new[n // 2] += spike
    return profile.draw_profile(middle - 1, middle, middle + 1, new, along="column")


def curve() -> str:
    recall = np.linspace(1, 0, 500)
    chosen = 100
    return thresholds.draw_precision_recall(
        1 - recall**4, recall, chosen=chosen, title="UBB0", threshold=0.00012
    )


def shares(n: int):
    """Value, low and high end, (n, 3); the first value is NaN."""
    value = np.linspace(0.1, 1, n)
    value[0] = np.nan
    return np.column_stack([value, value - 0.1, np.minimum(value + 0.1, 1)])


def confused(n: int = 12) -> str:
    counts = 9 * np.eye(n, dtype=int)
    counts[0, 1] = 3
    names = [f"kind {i}" for i in range(n)]
    return classification.draw_confusion_matrix(counts, names, names, title="Kinds")


def calibrated() -> str:
    promised = np.array([0.01, 0.45, 0.95])
    true = np.column_stack([promised, promised - 0.01, promised + 0.01])
    return classification.draw_calibration(promised, true, np.array([90000, 40, 3]), error=0.0123)


DRAWINGS = {
    "confusion": confused,
    "spans": lambda: classification.draw_intervals(
        list("abc"), {"precision": shares(3), "recall": shares(3)}, unit="share"
    ),
    "calibration": calibrated,
    "learning curve": lambda: classification.draw_learning_curve(
        np.array([0, 50, 100]),
        np.array([[0.2, 0.1, 0.3], [0.6, 0.5, 0.7], [0.8, 0.7, 0.9]]),
        unit="macro-F1",
    ),
    "tree": lambda: tree(201, odd=0.2),
    "few dots": lambda: history(100, limit=200.5),
    "many dots": lambda: history(5000, events=[(START, "new lamp")]),
    "profile": band,
    "precision and recall": curve,
}


@pytest.fixture(params=DRAWINGS)
def draw(request):
    return DRAWINGS[request.param]


def test_drawing_is_small_svg_element_with_description(draw):
    svg = draw()
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("aria-label")
    assert len(svg) < 60_000


def test_drawing_is_reproducible(draw):
    assert draw() == draw()


def test_drawing_texts_have_at_least_nine_points(draw):
    sizes = re.findall(r"font-size: ([\d.]+)px", draw())
    assert sizes
    assert min(map(float, sizes)) >= 9


def test_drawing_keeps_global_settings(draw):
    before = dict(mpl.rcParams)
    draw()
    assert dict(mpl.rcParams) == before


def test_thumbnail_has_black_and_white_at_given_levels():
    picture = grey(linear([[-5, 0, 50, 100, 900]]))
    assert picture[0].tolist() == pytest.approx([0, 0, 127, 255, 255], abs=3)


def test_thumbnail_has_first_row_at_bottom():
    picture = grey(linear([[0, 0], [100, 100]]))
    assert picture[:, 0].tolist() == [255, 0]


def test_thumbnail_has_aspect_of_detector():
    png = linear(np.zeros((224, 224)), aspect=1.5)
    assert opened(png).size == (224, 336)


def test_thumbnails_have_equal_grey_for_equal_counts():
    rng = np.random.default_rng(0)
    first, second = rng.normal(200, 5, (2, 50, 50))
    second[:25] += 300
    first[0, 0] = second[0, 0] = 207.0
    vmin, vmax = images.display_limits(first, second)
    pictures = [
        grey(
            images.draw_thumbnail(image, zero_adu=200, scale_adu=10, aspect=1, vmin=vmin, vmax=vmax)
        )
        for image in (first, second)
    ]
    assert pictures[0][-1, 0] == pictures[1][-1, 0]


def test_thumbnail_of_nan_is_black():
    assert grey(linear([[np.nan, 100]]))[0].tolist() == [0, 255]


def test_thumbnail_overlay_colours_its_region_only():
    heat = np.zeros((8, 8))
    heat[:2, :2] = 1  # bottom left
    plain, heated = (
        np.asarray(opened(linear(np.full((64, 64), 50), overlay=overlay)).convert("RGB")).astype(
            int
        )
        for overlay in (None, heat)
    )
    red, _, blue = heated[61, 2]
    assert red > blue + 100
    assert heated[3, 60].tolist() == pytest.approx(plain[3, 60].tolist(), abs=3)


def coloured(away):
    png = images.draw_difference(np.array(away, float), aspect=1, limit_sigma=10)
    return np.asarray(opened(png).convert("RGB")).astype(int)


def test_anomaly_overlay_starts_at_one_and_is_full_at_ten():
    times = np.array([[0.0, 1.0, 1.001, np.sqrt(10), 10.0, 500.0]])
    assert images.anomaly_overlay(times) == pytest.approx(
        np.array([[0, 0, 0.25, (0.25 + 1) / 2, 1, 1]]), abs=1e-3
    )


def test_difference_is_blue_below_and_orange_above():
    [[below, usual, above]] = coloured([[-10, 0.2, 10]] * 3)[:1].tolist()
    assert below == list(images.BELOW)
    assert usual == list(images.WITHIN)
    assert above == list(images.ABOVE)


def test_difference_saturates_and_draws_nan_as_zero():
    [row] = coloured([[-900, np.nan, 900]] * 3)[:1].tolist()
    assert row == coloured([[-10, 0, 10]] * 3)[0].tolist()


def test_difference_has_first_row_at_bottom():
    assert coloured([[0, 0], [10, 10]])[:, 0].tolist() == [list(images.ABOVE), list(images.WITHIN)]


def test_difference_limit_is_between_five_and_twenty_sigma():
    assert images.difference_limit(np.full((9, 9), 0.5)) == 5
    assert images.difference_limit(np.full((9, 9), -11.5)) == 12
    assert images.difference_limit(np.full((9, 9), 8000)) == 20


def test_difference_limit_ignores_cosmic_ray():
    away = np.zeros((224, 224))
    away[7, 7] = 3000
    assert images.difference_limit(away) == 5


def test_difference_of_noise_is_small_and_reproducible():
    noise = np.random.default_rng(0).normal(0, 1, (224, 224))
    png = images.draw_difference(noise, aspect=1.9, limit_sigma=5)
    assert len(png) < 30_000
    assert png == images.draw_difference(noise, aspect=1.9, limit_sigma=5)


def test_thumbnail_of_noise_is_small():
    noise = np.random.default_rng(0).normal(200, 1, (224, 224))
    vmin, vmax = images.display_limits(noise)
    png = images.draw_thumbnail(
        noise, zero_adu=200, scale_adu=10, aspect=1.9, vmin=vmin, vmax=vmax, overlay=np.eye(7)
    )
    assert len(png) < 40_000


def test_display_limits_cover_all_images():
    low, high = images.display_limits(np.full((9, 9), 100.0), np.full((9, 9), 500.0))
    assert (low, high) == (100, 500)


def test_display_limits_of_empty_frame_have_least_span():
    assert images.display_limits(np.full((9, 9), 200.0), least_span_adu=10) == (195, 205)


def test_dendrogram_shows_height_and_side_of_threshold():
    distant, nominal = tree(60, odd=0.2), tree(60)
    assert "this frame: 0.00" in distant
    assert "threshold 0.0004" in distant
    assert drawing.RED in distant
    assert drawing.RED not in nominal
    assert drawing.BLUE in nominal


def test_dendrogram_links_follow_merges():
    # Leaves 0 and 1 join at 1; leaf 2 joins them at 4.
    merges = np.array([[0, 1, 1.0, 2], [2, 3, 4.0, 3]])
    links, holds_marked = dendrogram.dendrogram_links(merges, marked=2)
    assert links[:, 1, 1].tolist() == [1, 4]
    assert abs(links[0, 0, 0] - links[0, 3, 0]) == 1
    assert holds_marked.tolist() == [False, True]


def test_dendrogram_accepts_identical_frames():
    merges = linkage(np.ones((5, 3)), "average")
    assert "this frame: 0" in dendrogram.draw_dendrogram(merges, threshold=0.1, marked=0)


def test_trend_legend_contains_present_statuses_only():
    drawn = history(10, statuses=("nominal",))
    assert "nominal" in drawn
    assert "anomalous" not in re.sub("aria-label=.*?>", "", drawn)


def test_trend_names_limit_and_events():
    drawn = history(10, limit=200.5, events=[(START + timedelta(days=3), "new controller")])
    assert "limit 200.5" in drawn
    assert "new controller" in drawn


def test_trend_marks_given_value():
    assert "this frame" in history(10, marked=9)
    assert "this frame" not in history(10)


def test_trend_embeds_many_dots_as_one_image():
    assert "<image" not in history(60)
    assert history(5000, statuses=("nominal",)).count("<image") == 1


def test_profile_keeps_single_spike():
    assert "0.0% outside" in band()
    middle = np.zeros(4096)
    new = middle.copy()
    new[1777] = 50
    _, _, _, high, drawn = profile.thin_profile(middle - 1, middle, middle + 1, new)
    assert drawn.max() == 50
    assert (drawn > high).sum() == 1


def test_trend_over_decades_is_logarithmic():
    days = [START + timedelta(days=day) for day in range(3)]
    scores = np.array([1e-5, 1e-3, 0.1])
    drawn = trends.draw_trend(days, scores, ["nominal"] * 3, title="URW1 score", unit="")
    assert ">0.001<" in drawn


def test_precision_recall_shows_threshold():
    assert "threshold 0.00012" in curve()
    assert "recall 0.80" in curve()


def test_confusion_matrix_shows_counts():
    drawing = confused(3)
    assert drawing.count(">9<") == 3
    assert drawing.count(">3<") == 1
    assert "Kinds: 90.0% on the diagonal" in drawing


def test_confusion_matrix_of_forty_kinds_has_room_for_names():
    width, height = (
        float(confused(40).split(f'{side}="')[1].split("pt")[0]) for side in ("width", "height")
    )
    assert min(width, height) > 40 * 0.25 * 72


def test_intervals_skip_nan():
    both = classification.draw_intervals(["a", "b"], {"precision": shares(2)}, unit="share")
    assert "precision of 2 classes" in both
    assert "nan" not in both


def test_calibration_shows_error():
    assert "error 0.0123" in calibrated()


def test_recall_trend_shows_limit_and_is_reproducible():
    times = [datetime(2026, 11, day, tzinfo=UTC) for day in (17, 18, 19)]
    spread = np.array([[1.0, 0.9, 1.0], [0.95, 0.8, 1.0], [0.7, 0.5, 0.85]])
    drawn = trends.draw_recall_trend(times, spread, limit=0.9)
    assert "limit 0.9" in drawn
    assert "Recall of the self-test on 3 nights, last 0.70" in drawn
    assert trends.draw_recall_trend(times, spread, limit=0.9) == drawn
