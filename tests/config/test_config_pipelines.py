import pytest

from medseg.config import Config
from medseg.config.pipelines import find_pipeline, list_pipelines
from medseg.core.errors import ConfigError

SOURCE = """\
from medseg.config import Channel, Config, Data

CONFIG = Config(name="mine", summary="s", data=Data(channels={"a": Channel()}, labels={1: "x"}))
"""


def test_an_installed_pipeline_is_found_by_its_name():
    assert find_pipeline("phantom_ct").name == "phantom_ct"


def test_all_listed_pipelines_have_a_config_of_their_name():
    assert list_pipelines()
    for name in list_pipelines():
        assert find_pipeline(name).name == name


def test_an_unknown_pipeline_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        find_pipeline("phantomct")
    assert (caught.value.code, caught.value.hint) == ("UNKNOWN_PIPELINE", "did you mean `phantom_ct`?")


def test_a_python_file_is_a_pipeline_too(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    config = find_pipeline(str(tmp_path / "mine.py"))
    assert isinstance(config, Config)
    assert config.name == "mine"


def test_a_missing_python_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError) as caught:
        find_pipeline(str(tmp_path / "mine.py"))
    assert caught.value.code == "UNKNOWN_PIPELINE"


@pytest.mark.parametrize("text", ["", "CONFIG = {'name': 'mine'}"])
def test_a_python_file_without_a_config_is_refused(tmp_path, text):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match="defines no CONFIG"):
        find_pipeline(str(tmp_path / "mine.py"))


def test_a_file_with_a_syntax_error_is_named(tmp_path):
    (tmp_path / "task.py").write_text("CONFIG = (\n")
    with pytest.raises(ConfigError, match=r"task\.py cannot be loaded") as caught:
        find_pipeline(str(tmp_path / "task.py"))
    assert caught.value.code == "PIPELINE_BROKEN"


def test_an_invalid_config_in_a_file_is_explained_with_the_nearest_key(tmp_path):
    (tmp_path / "task.py").write_text(
        "from medseg.config import Channel, Config, Data\n"
        "data = Data(channels={'ct': Channel()}, labels={1: 'organ'})\n"
        "CONFIG = Config(name='task', summary='', data=data, los={'name': 'dice'})\n"
    )
    with pytest.raises(ConfigError, match="unknown key `los`") as caught:
        find_pipeline(str(tmp_path / "task.py"))
    assert "loss" in caught.value.hint
