import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, unpacked into an empty folder as pip would install it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", folder, ROOT], check=True)
    [wheel] = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", site, wheel], check=True)
    return site


def run(installed, folder, *command):
    return subprocess.run(
        [sys.executable, "-m", "qc", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "shipped",
    [
        "qc/thresholds.yaml",
        "qc/migrations/env.py",
        "qc/io/instruments/uves.yaml",
        "qc/reports/templates/report.html.j2",
        "qc/simulator/orders.csv",
        "embeddings/weights/simulated.weights.h5",
    ],
)
def test_what_the_program_needs_travels_in_the_wheel(installed, shipped):
    assert (installed / shipped).is_file()


def test_a_project_is_made_and_sound_from_the_wheel_alone(installed, tmp_path):
    made = run(installed, tmp_path, "db", "upgrade", "--project", "new")
    checked = run(installed, tmp_path, "db", "check", "--project", "new")
    assert (made.returncode, checked.returncode) == (0, 0), made.stderr + checked.stderr
    assert (tmp_path / "new" / "thresholds.yaml").is_file()


def test_the_wheel_simulates_and_reads_its_own_frames(installed, tmp_path):
    done = run(installed, tmp_path, "simulate", "--out", "sky", "--plan", "demo", "--nights", "1")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "sky").rglob("*.fits"))) == 29
