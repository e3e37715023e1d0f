from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from embeddings.projection import project_pca, project_tsne
from qc._cache import LRUCache
from qc.core.enums import LabelName
from qc.search.projection import sample_evenly
from qc.web.api.projections import DendrogramQuery, read_dendrogram
from tests.support.browser import pages_of
from tests.support.databases import write_settings
from tests.support.tiny_spectrograph import (
    light_leak,
    open_tiny,
    process,
    write_frame,
    write_history,
)
from tests.support.verdict_rows import StoredExtension, add_extensions

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
BAD = LabelName.BAD


@pytest.fixture
def browser(project):
    """Client of the application, without a browser."""
    return pages_of(project, lambda: NOW)


@pytest.fixture
def past(project, inbox):
    """Eight good biases and one with a light leak, as frames of the first two nights."""
    good = write_history(inbox, frames=8)
    leak = write_frame(inbox, 2, change=light_leak)
    process(project, *good)
    process(project, leak, label=BAD)
    return [path.stem for path in (*good, leak)]


def temporary_uploads():
    return list(Path("/tmp").glob("qc-upload-*"))


def test_similar_page_shows_distance_and_label(browser, past):
    *_, leak = past
    page = browser.get("/similar", params={"frame": past[0], "k": 8}).text
    assert f"/thumbnails/{past[1]}/0.png" in page
    assert "bad" in page
    results = browser.get("/api/v1/similar", params={"frame": past[0], "k": 8}).json()
    [result] = results
    distances = [neighbour["distance"] for neighbour in result["neighbours"]]
    assert (len(distances), distances) == (8, sorted(distances))
    assert result["neighbours"][-1]["name"] == f"{leak}[0]"
    assert result["neighbours"][-1]["label"] == "bad"


@pytest.mark.usefixtures("past")
def test_similar_rejects_server_path(browser, inbox):
    new = write_frame(inbox, 5)
    answer = browser.get("/api/v1/similar", params={"frame": str(new)})
    assert (answer.status_code, "no processed frame has this name" in answer.text) == (404, True)


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize("query", ["frame=", "frame=X&k=0", "frame=X&k=many", "frame=" + 400 * "x"])
def test_invalid_query_is_rejected(browser, query):
    answer = browser.get(f"/api/v1/similar?{query}")
    assert (answer.status_code, list(answer.json())) == (422, ["error"])


def test_upload_is_deleted(browser, project, past, inbox):
    *_, leak = past
    new = write_frame(inbox, 5, change=light_leak)
    with project.read_session() as session:
        before = session.connection().exec_driver_sql("select count(*) from frame").scalar()
    files = {"file": ("../../etc/<b>evil.fits", new.read_bytes())}
    [document] = browser.post("/api/v1/similar", files=files, data={"k": "3"}).json()
    assert document["neighbours"][0]["name"] == f"{leak}[0]"
    assert len(document["neighbours"]) == 3
    page = browser.post("/similar", files=files)
    assert (page.status_code, f"is most like {leak}[0]" in page.text) == (200, True)
    assert temporary_uploads() == []
    with project.read_session() as session:
        after = session.connection().exec_driver_sql("select count(*) from frame").scalar()
    assert before == after


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize("content", [b"MZ this is no FITS file", b"SIMPLE  =", b"\x1f\x9d\x90junk"])
def test_upload_of_broken_file(browser, content):
    answer = browser.post("/api/v1/similar", files={"file": ("a.fits", content)})
    message = answer.json()["error"]
    assert (answer.status_code, message.startswith("the file: ")) == (422, True)
    assert ("\n" in message, "/tmp" in message) == (False, False)
    assert temporary_uploads() == []


def test_upload_without_file(browser):
    answer = browser.post("/api/v1/similar", files={"other": ("a", b"x")})
    assert (answer.status_code, "expected a FITS file" in answer.text) == (422, True)


def small_uploads(project_folder, **limits):
    """Open the project with other limits on uploads."""
    lines = "".join(f"{name} = {value}\n" for name, value in limits.items())
    write_settings(project_folder, f"[web]\n{lines}")
    return open_tiny(project_folder)


def test_large_upload_is_refused_before_reading(project_folder):
    with small_uploads(project_folder, upload_mb=0.5) as project:
        files = {"file": ("a.fits", bytes(2**20))}
        answer = pages_of(project).post("/api/v1/similar", files=files)
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("the file is too large: expected at most 0.5 MB")


def test_upload_without_length_is_refused(browser):
    parts = iter([b"--x\r\n", b"--x--\r\n"])
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = browser.post("/api/v1/similar", content=parts, headers=headers)
    assert (answer.status_code, "has no Content-Length" in answer.text) == (411, True)


def test_slow_upload_is_stopped(project_folder, inbox):
    with small_uploads(project_folder, upload_s=1e-6) as project:
        files = {"file": ("a.fits", write_frame(inbox).read_bytes())}
        answer = pages_of(project).post("/api/v1/similar", files=files)
    assert (answer.status_code, "was stopped" in answer.text) == (408, True)


def test_principal_plane_first_axis():
    line = np.outer(np.linspace(-1, 1, 5), [3.0, 4.0, 0.0]).astype(np.float32)
    plane = project_pca(line)
    assert np.abs(plane[:, 0]) == pytest.approx([5, 2.5, 0, 2.5, 5], abs=1e-4)
    assert plane[:, 1] == pytest.approx(np.zeros(5), abs=1e-4)
    assert project_pca(line[:1]).tolist() == [[0, 0]]


def test_neighbour_plane_separates_clusters():
    random = np.random.default_rng(1)
    heaps = np.concatenate([random.normal(at, 0.1, (20, 5)) for at in (0, 10)]).astype(np.float32)
    plane = project_tsne(heaps)
    middles = plane[:20].mean(axis=0), plane[20:].mean(axis=0)
    within = np.linalg.norm(plane[:20] - middles[0], axis=1)
    assert np.linalg.norm(middles[0] - middles[1]) > 2 * np.median(within)


def test_sample_evenly_includes_ends():
    assert sample_evenly(range(101), 3) == [0, 50, 100]
    assert sample_evenly([1, 2], 3) == [1, 2]


def test_projection_separates_outlier(browser, past):
    projection = browser.get("/api/v1/map?type=TB0").json()
    places = {place["name"]: place for place in projection["places"]}
    assert (projection["of"], set(places)) == (9, {f"{name}[0]" for name in past})
    assert max(places, key=lambda name: abs(places[name]["x"])) == f"{past[-1]}[0]"
    assert places[f"{past[-1]}[0]"]["label"] == "bad"
    assert len(browser.get("/api/v1/map?type=any&way=tsne").json()["places"]) == 9


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize("colour", ["year", "label", "type"])
def test_projection_plot_colours(browser, colour):
    assert browser.get(f"/map/plot.json?type=TB0&colour={colour}").json()["target_id"] == "plot"


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize(
    ("query", "status"),
    [("type=XB0", 404), ("type=TF0", 422), ("type=TB0&colour=taste", 422), ("way=umap", 422)],
)
def test_projection_rejects_invalid_query(browser, query, status):
    answer = browser.get(f"/api/v1/map?{query}")
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_dendrogram_of_newest_or_named(browser, past):
    document = browser.get(f"/api/v1/dendrogram?type=TB0&marked={past[-1]}").json()
    assert document["names"] == [f"{name}[0]" for name in past]
    assert (document["marked"], len(document["merges"])) == (f"{past[-1]}[0]", 8)
    heights = [row[2] for row in document["merges"]]
    assert heights[-1] > document["threshold"] > heights[-2]
    few = browser.get(f"/api/v1/dendrogram?type=TB0&frame={past[0]}&frame={past[3]}").json()
    assert few["names"] == [f"{past[0]}[0]", f"{past[3]}[0]"]
    assert "<svg" in browser.get("/dendrogram?type=TB0").text


def test_dendrogram_table_order(browser, past, project):
    document = browser.get("/api/v1/dendrogram?type=TB0").json()
    with project.read_session() as session:
        query = DendrogramQuery.model_validate({"type": "TB0"})
        first, *rest = read_dendrogram(project, session, LRUCache(), query).joins()
    assert (first.name, first.height, first.joined) == (
        f"{past[-1]}[0]",
        document["merges"][-1][2],
        8,
    )
    assert {item.name for item in rest} == {f"{name}[0]" for name in past[:-1]}
    assert min(item.joined for item in rest) == 1  # the two that are most alike
    page = browser.get("/dendrogram?type=TB0").text
    assert page.index(f">{past[-1]}[0]</a> (marked)</th>") < page.index(f">{past[0]}[0]</a></th>")


def test_projection_points_by_keyboard(page, past):
    page.goto("/map?type=TB0")
    slider = page.get_by_role("slider", name="point by point")
    texts = [slider.press(key) or slider.get_attribute("aria-valuetext") for key in ("Home", "End")]
    assert any(item.startswith(f"{past[-1]}[0], TB0 2026-01-02 ") for item in texts)
    group = page.get_by_role("combobox", name="points")
    assert group.locator("option").all_inner_texts() == ["all, 9", "not labelled, 8", "bad, 1"]
    group.select_option("bad")
    expect(page.get_by_role("link", name=f"{past[-1]}[0]")).to_be_visible()


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 422),
        ("type=XB0", 404),
        ("type=TB0&frame=NOBODY.1", 404),
        ("type=TB0&since=2026-03-01", 422),
        ("type=TB0" + 201 * "&frame=x", 422),
    ],
)
def test_dendrogram_rejects_invalid_query(browser, query, status):
    answer = browser.get(f"/api/v1/dendrogram?{query}")
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_dendrogram_size_is_limited(browser, project):
    vectors = np.random.default_rng(1).normal(1, 0.01, (230, 2))
    names = add_extensions(
        project, *[StoredExtension(vector=tuple(map(float, item))) for item in vectors]
    )
    document = browser.get("/api/v1/dendrogram?type=TB0").json()
    assert document["names"] == names[-200:]


def test_similar_page_in_browser(page, past, inbox):
    page.goto("/similar")
    page.get_by_label("name of a stored frame").fill(past[0])
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_text("is most like").first).to_be_visible()
    new = write_frame(inbox, 6, change=light_leak)
    page.get_by_label("or a FITS file").set_input_files(new)
    page.get_by_role("button", name="Search with file").click()
    expect(page.get_by_text(f"is most like {past[-1]}[0]")).to_be_visible()
    broken = inbox / "broken.fits"
    broken.write_bytes(b"no FITS file")
    page.get_by_label("or a FITS file").set_input_files(broken)
    page.get_by_role("button", name="Search with file").click()
    expect(page.get_by_role("heading", name="422")).to_be_visible()
    expect(page.get_by_text("the file: ")).to_be_visible()
