from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from embeddings.projection import neighbour_plane, principal_plane
from qc._cache import LRUCache
from qc.core.enums import LabelName
from qc.search.projection import evenly
from qc.web.pages.similar import DendrogramQuery, read_tree
from tests.support.browser import pages_of
from tests.support.databases import write_settings
from tests.support.remembered import Past, remember
from tests.support.tiny import light_leak, open_tiny, process, write_frame, write_history

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
BAD = LabelName.BAD


@pytest.fixture
def browser(project):
    """What asks for pages without a browser."""
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


def test_the_frames_most_like_one_are_shown_with_distance_and_label(browser, past):
    *_, leak = past
    page = browser.get("/similar", params={"frame": past[0], "k": 8}).text
    assert f"/thumbnails/{past[1]}/0.png" in page
    assert "bad" in page
    told = browser.get("/api/v1/similar", params={"frame": past[0], "k": 8}).json()
    [one] = told
    distances = [each["distance"] for each in one["neighbours"]]
    assert (len(distances), distances) == (8, sorted(distances))
    assert one["neighbours"][-1]["name"] == f"{leak}[0]"
    assert one["neighbours"][-1]["label"] == "bad"


@pytest.mark.usefixtures("past")
def test_a_path_on_the_server_is_not_a_frame_that_may_be_asked_for(browser, inbox):
    new = write_frame(inbox, 5)
    answer = browser.get("/api/v1/similar", params={"frame": str(new)})
    assert (answer.status_code, "no processed frame has this name" in answer.text) == (404, True)


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize("asked", ["frame=", "frame=X&k=0", "frame=X&k=many", "frame=" + 400 * "x"])
def test_what_cannot_be_asked_is_told_in_a_sentence(browser, asked):
    answer = browser.get(f"/api/v1/similar?{asked}")
    assert (answer.status_code, list(answer.json())) == (422, ["error"])


def test_an_uploaded_file_is_looked_at_and_nothing_of_it_stays(browser, project, past, inbox):
    *_, leak = past
    new = write_frame(inbox, 5, change=light_leak)
    with project.reads() as session:
        before = session.connection().exec_driver_sql("select count(*) from frame").scalar()
    files = {"file": ("../../etc/<b>evil.fits", new.read_bytes())}
    [told] = browser.post("/api/v1/similar", files=files, data={"k": "3"}).json()
    assert told["neighbours"][0]["name"] == f"{leak}[0]"
    assert len(told["neighbours"]) == 3
    page = browser.post("/similar", files=files)
    assert (page.status_code, f"is most like {leak}[0]" in page.text) == (200, True)
    assert temporary_uploads() == []
    with project.reads() as session:
        after = session.connection().exec_driver_sql("select count(*) from frame").scalar()
    assert before == after


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize("content", [b"MZ this is no FITS file", b"SIMPLE  =", b"\x1f\x9d\x90junk"])
def test_a_broken_file_is_one_sentence(browser, content):
    answer = browser.post("/api/v1/similar", files={"file": ("a.fits", content)})
    words = answer.json()["error"]
    assert (answer.status_code, words.startswith("the file: ")) == (422, True)
    assert ("\n" in words, "/tmp" in words) == (False, False)
    assert temporary_uploads() == []


def test_no_file_is_no_question(browser):
    answer = browser.post("/api/v1/similar", files={"other": ("a", b"x")})
    assert (answer.status_code, "expected a FITS file" in answer.text) == (422, True)


def small_uploads(project_folder, **limits):
    """Open the project with other limits on uploads."""
    lines = "".join(f"{name} = {value}\n" for name, value in limits.items())
    write_settings(project_folder, f"[web]\n{lines}")
    return open_tiny(project_folder)


def test_a_file_too_large_is_refused_before_it_is_read(project_folder):
    with small_uploads(project_folder, upload_mb=0.5) as project:
        files = {"file": ("a.fits", bytes(2**20))}
        answer = pages_of(project).post("/api/v1/similar", files=files)
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("the file is too large: expected at most 0.5 MB")


def test_a_file_of_untold_length_is_refused(browser):
    parts = iter([b"--x\r\n", b"--x--\r\n"])
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = browser.post("/api/v1/similar", content=parts, headers=headers)
    assert (answer.status_code, "does not say how long" in answer.text) == (411, True)


def test_a_file_that_takes_too_long_is_given_up(project_folder, inbox):
    with small_uploads(project_folder, upload_s=1e-6) as project:
        files = {"file": ("a.fits", write_frame(inbox).read_bytes())}
        answer = pages_of(project).post("/api/v1/similar", files=files)
    assert (answer.status_code, "it was given up" in answer.text) == (408, True)


def test_the_first_principal_axis_is_the_one_along_which_they_differ():
    line = np.outer(np.linspace(-1, 1, 5), [3.0, 4.0, 0.0]).astype(np.float32)
    plane = principal_plane(line)
    assert np.abs(plane[:, 0]) == pytest.approx([5, 2.5, 0, 2.5, 5], abs=1e-4)
    assert plane[:, 1] == pytest.approx(np.zeros(5), abs=1e-4)
    assert principal_plane(line[:1]).tolist() == [[0, 0]]


def test_two_heaps_stay_apart_where_neighbours_count():
    random = np.random.default_rng(1)
    heaps = np.concatenate([random.normal(at, 0.1, (20, 5)) for at in (0, 10)]).astype(np.float32)
    plane = neighbour_plane(heaps)
    middles = plane[:20].mean(axis=0), plane[20:].mean(axis=0)
    within = np.linalg.norm(plane[:20] - middles[0], axis=1)
    assert np.linalg.norm(middles[0] - middles[1]) > 2 * np.median(within)


def test_a_sample_reaches_from_the_first_to_the_last():
    assert evenly(range(101), 3) == [0, 50, 100]
    assert evenly([1, 2], 3) == [1, 2]


def test_a_map_has_a_place_for_every_frame_and_sets_the_odd_one_apart(browser, past):
    told = browser.get("/api/v1/map?type=TB0").json()
    places = {one["name"]: one for one in told["places"]}
    assert (told["of"], set(places)) == (9, {f"{name}[0]" for name in past})
    assert max(places, key=lambda name: abs(places[name]["x"])) == f"{past[-1]}[0]"
    assert places[f"{past[-1]}[0]"]["label"] == "bad"
    assert len(browser.get("/api/v1/map?type=any&way=tsne").json()["places"]) == 9


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize("colour", ["year", "label", "type"])
def test_a_map_is_drawn_by_year_label_or_type(browser, colour):
    assert browser.get(f"/map/plot.json?type=TB0&colour={colour}").json()["target_id"] == "plot"


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize(
    ("asked", "status"),
    [("type=XB0", 404), ("type=TF0", 422), ("type=TB0&colour=taste", 422), ("way=umap", 422)],
)
def test_a_map_that_cannot_be_is_told_in_a_sentence(browser, asked, status):
    answer = browser.get(f"/api/v1/map?{asked}")
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_a_dendrogram_is_of_the_newest_or_of_those_named(browser, past):
    told = browser.get(f"/api/v1/dendrogram?type=TB0&marked={past[-1]}").json()
    assert told["names"] == [f"{name}[0]" for name in past]
    assert (told["marked"], len(told["merges"])) == (f"{past[-1]}[0]", 8)
    heights = [row[2] for row in told["merges"]]
    assert heights[-1] > told["threshold"] > heights[-2]
    few = browser.get(f"/api/v1/dendrogram?type=TB0&frame={past[0]}&frame={past[3]}").json()
    assert few["names"] == [f"{past[0]}[0]", f"{past[3]}[0]"]
    assert "<svg" in browser.get("/dendrogram?type=TB0").text


def test_a_tree_is_told_in_numbers_the_frame_that_stands_apart_first(browser, past, project):
    told = browser.get("/api/v1/dendrogram?type=TB0").json()
    with project.reads() as session:
        asked = DendrogramQuery.model_validate({"type": "TB0"})
        first, *others = read_tree(project, session, LRUCache(), asked).joins()
    assert (first.name, first.height, first.others) == (f"{past[-1]}[0]", told["merges"][-1][2], 8)
    assert {one.name for one in others} == {f"{name}[0]" for name in past[:-1]}
    assert min(one.others for one in others) == 1  # the two that are most alike
    page = browser.get("/dendrogram?type=TB0").text
    assert page.index(f">{past[-1]}[0]</a> (marked)</th>") < page.index(f">{past[0]}[0]</a></th>")


def test_the_points_of_a_map_are_reached_by_keys(page, past):
    page.goto("/map?type=TB0")
    slider = page.get_by_role("slider", name="one by one")
    told = [slider.press(key) or slider.get_attribute("aria-valuetext") for key in ("Home", "End")]
    assert any(one.startswith(f"{past[-1]}[0], TB0 2026-01-02 ") for one in told)
    group = page.get_by_role("combobox", name="points")
    assert group.locator("option").all_inner_texts() == ["all, 9", "not labelled, 8", "bad, 1"]
    group.select_option("bad")
    expect(page.get_by_role("link", name=f"{past[-1]}[0]")).to_be_visible()


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("", 422),
        ("type=XB0", 404),
        ("type=TB0&frame=NOBODY.1", 404),
        ("type=TB0&since=2026-03-01", 422),
        ("type=TB0" + 201 * "&frame=x", 422),
    ],
)
def test_a_tree_that_cannot_be_is_told_in_a_sentence(browser, asked, status):
    answer = browser.get(f"/api/v1/dendrogram?{asked}")
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_a_tree_is_bounded(browser, project):
    vectors = np.random.default_rng(1).normal(1, 0.01, (230, 2))
    names = remember(project, *[Past(vector=tuple(map(float, one))) for one in vectors])
    told = browser.get("/api/v1/dendrogram?type=TB0").json()
    assert told["names"] == names[-200:]


def test_a_person_searches_by_name_and_by_file(page, past, inbox):
    page.goto("/similar")
    page.get_by_label("a stored frame's name").fill(past[0])
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("is most like").first).to_be_visible()
    new = write_frame(inbox, 6, change=light_leak)
    page.get_by_label("or a FITS file").set_input_files(new)
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_text(f"is most like {past[-1]}[0]")).to_be_visible()
    broken = inbox / "broken.fits"
    broken.write_bytes(b"no FITS file")
    page.get_by_label("or a FITS file").set_input_files(broken)
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_role("heading", name="422")).to_be_visible()
    expect(page.get_by_text("the file: ")).to_be_visible()
