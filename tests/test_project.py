import sys
from pathlib import Path

import pytest

from embeddings.encoder import ResNet50Encoder
from qc.db.schema.engine import connect
from qc.errors import ConfigurationError
from qc.io.instrument_files import read_instruments
from qc.project import create_project, open_project, thresholds_file
from qc.settings import read_settings
from tests.support.tiny_spectrograph import thresholds_text


def settings_of(project_folder: Path, toml: str = ""):
    project_folder.mkdir(exist_ok=True)
    (project_folder / "qc.toml").write_text(toml)
    return read_settings(project_folder)


def test_settings_priority_is_caller_environment_file(tmp_path, monkeypatch):
    toml = 'stretch = "asinh"\nbatch_frames = 3\nproject = "/elsewhere"\n'
    monkeypatch.setenv("QC_STRETCH", "zscale")
    monkeypatch.setenv("QC_PROJECT", "/nowhere")
    settings = settings_of(tmp_path, toml)
    assert (settings.stretch, settings.batch_frames) == ("zscale", 3)
    assert settings.project == tmp_path.resolve()


def test_settings_relative_paths_start_at_the_project(tmp_path, monkeypatch):
    toml = (
        'thresholds = "limits/t.yaml"\ninstruments = "mine"\nweights = "w.weights.h5"\n'
        'database = "sqlite:///data/x.db"\n'
    )
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settings = settings_of(tmp_path / "project", toml)
    project_folder = tmp_path / "project"
    assert thresholds_file(settings) == project_folder / "limits/t.yaml"
    assert settings.instruments_folder == project_folder / "mine"
    assert settings.weights_name == str(project_folder / "w.weights.h5")
    assert settings.database_url.database == str(project_folder / "data/x.db")


def test_settings_absolute_paths_are_unchanged(tmp_path):
    toml = (
        'thresholds = "/etc/t.yaml"\nweights = "imagenet"\n'
        'database = "postgresql+psycopg://me:secret@host/qc"\n'
    )
    settings = settings_of(tmp_path, toml)
    assert thresholds_file(settings) == Path("/etc/t.yaml")
    assert settings.weights_name == "imagenet"
    assert settings.database_url.host == "host"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('stretch = "log"', "stretch: Value error, there are physical, minmax"),
        ("batch_frames = 0", "batch_frames: Input should be greater than 0, got 0"),
        ('batch_frames = "many"', "batch_frames: Input should be a valid integer"),
        ('weigths = "untrained"', "weigths: Extra inputs are not permitted, got 'untrained'"),
        ("stretch = ", "qc.toml: "),
        ("stretch = physical", "qc.toml: "),
    ],
)
def test_settings_error_is_one_line_with_key_and_value(tmp_path, toml, message):
    with pytest.raises(ConfigurationError) as error_info:
        settings_of(tmp_path, toml)
    assert message in str(error_info.value)
    assert "\n" not in str(error_info.value)


def test_settings_error_in_the_environment_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("QC_BATCH_FRAMES", "-1")
    with pytest.raises(ConfigurationError, match=r"or QC_\*: batch_frames: Input"):
        settings_of(tmp_path)


def test_settings_invalid_encoding_is_reported(tmp_path):
    (tmp_path / "qc.toml").write_bytes(b"stretch = '\xff'")
    with pytest.raises(ConfigurationError, match=r"qc\.toml: "):
        read_settings(tmp_path)


def test_settings_invalid_database_address_is_reported(tmp_path):
    with pytest.raises(ConfigurationError, match="got 'nonsense'"):
        _ = settings_of(tmp_path, 'database = "nonsense"').database_url


@pytest.mark.parametrize("url", ["postgresql+psycopg//me:secret@host/qc", "x://me:secret@h/qc"])
def test_settings_error_hides_the_database_password(tmp_path, url):
    with pytest.raises(ConfigurationError) as error_info:
        connect(settings_of(tmp_path, f'database = "{url}"').database_url)
    assert "secret" not in str(error_info.value)


def test_settings_missing_project_names_the_remedy(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no such project folder; make one with 'qc init"):
        read_settings(tmp_path / "none")


def test_thresholds_file_named_in_settings_is_never_replaced(project_folder):
    assert thresholds_file(read_settings(project_folder)) == project_folder / "thresholds.yaml"
    named = read_settings(project_folder).model_copy(update={"thresholds": Path("typo.yaml")})
    assert thresholds_file(named) == project_folder / "typo.yaml"


def test_create_project_twice_changes_nothing(project_folder):
    def contents():
        return {
            path: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in project_folder.rglob("*")
            if path.is_file() and path.suffix in {".toml", ".yaml"}
        }

    before = contents()
    create_project(project_folder)
    assert contents() == before


@pytest.mark.sqlite  # whose database is a file of the folder
def test_create_project_writes_settings_thresholds_and_database(tmp_path):
    folder = tmp_path / "new" / "deep"
    create_project(folder)
    assert {path.name for path in folder.iterdir()} >= {"qc.toml", "thresholds.yaml", "qc.db"}
    settings = read_settings(folder)
    assert (settings.weights, settings.stretch) == ("untrained", "physical")


def test_create_project_keeps_thresholds_elsewhere(unmade, tmp_path, monkeypatch):
    elsewhere = tmp_path / "t.yaml"
    elsewhere.write_text(thresholds_text(["UBB0"]))
    monkeypatch.setenv("QC_THRESHOLDS", str(elsewhere))
    create_project(unmade)
    assert not (unmade / "thresholds.yaml").exists()
    assert elsewhere.read_text() == thresholds_text(["UBB0"])


@pytest.mark.sqlite  # whose address has the folder's name in it
@pytest.mark.parametrize("name", ["a b", "a?b=c", "100%d", "ü#"])
def test_create_project_accepts_special_characters(tmp_path, name):
    create_project(tmp_path / name)
    assert (tmp_path / name / "qc.db").is_file()


def test_create_project_at_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made a project"):
        create_project(tmp_path / "file")


def test_open_project_loads_no_network(project_folder):
    settings = read_settings(project_folder).model_copy(update={"instruments": Path("instruments")})
    types = [
        n for item in read_instruments(project_folder / "instruments") for n in item.image_types()
    ]
    (project_folder / "thresholds.yaml").write_text(thresholds_text(types))
    with open_project(settings) as project:
        assert isinstance(project.encoder, ResNet50Encoder)
        assert "_network" not in vars(project.encoder)


def test_open_project_missing_engine_is_reported(unmade, monkeypatch):
    create_project(unmade)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setenv("QC_ENGINE", "openvino")
    with (
        pytest.raises(ConfigurationError, match=r"pip install 'calibration-qc\[openvino\]'"),
        open_project(read_settings(unmade)),
    ):
        pass
