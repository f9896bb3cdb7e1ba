import pytest

from medseg.config import Builder, Channel, Config, Data, Grid, Infer, Train
from medseg.config.layers import differences, dump, flatten, load, parse, resolve, save
from medseg.core.errors import ConfigError

PIPELINE = Config(
    name="liver_ct",
    summary="Liver – in CT.",
    data=Data(
        channels={"ct": Channel(normalize="ct")},
        labels={1: "liver", 7: "tumour"},
        label_map={"nonzero": 1, 205: 7},
    ),
    grid=Grid(spacing_mm=(0.7, 0.7, 5.0)),
    model=Builder(name="unet", options={"features": [8, 16], "dropout": 0.1}),
    train=Train(epochs=30),
    infer=Infer(postprocess=(Builder(name="keep_largest"),)),
)


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


def refuse(*settings, file=None):
    with pytest.raises(ConfigError) as caught:
        resolve(PIPELINE, file, settings)
    return caught.value


def test_without_layers_the_pipeline_stays_as_it_is():
    assert resolve(PIPELINE) == PIPELINE


def test_a_yaml_file_lies_over_the_pipeline(yaml_file):
    config = resolve(PIPELINE, yaml_file("pipeline: liver_ct\ntrain: {epochs: 3}"))
    assert config.train.epochs == 3
    assert config.grid == PIPELINE.grid


def test_a_setting_lies_over_the_yaml_file(yaml_file):
    config = resolve(PIPELINE, yaml_file("train: {epochs: 3, learning_rate: 0.1}"), ["train.epochs=4"])
    assert (config.train.epochs, config.train.learning_rate) == (4, 0.1)


def test_the_last_setting_wins():
    assert resolve(PIPELINE, None, ["seed=1", "seed=2"]).seed == 2


def test_a_setting_may_hold_an_equals_sign():
    assert resolve(PIPELINE, None, ["summary=a=b"]).summary == "a=b"


def test_a_section_can_be_laid_over_as_a_whole():
    assert resolve(PIPELINE, None, ["grid={patch: [32, 32, 8]}"]).grid == Grid(
        spacing_mm=(0.7, 0.7, 5.0), patch=(32, 32, 8)
    )


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", ".1e-2", "+1e-3"])
def test_an_exponent_without_a_dot_is_a_number(yaml_file, text):
    assert resolve(PIPELINE, yaml_file(f"train: {{learning_rate: {text}}}")).train.learning_rate == 0.001
    assert resolve(PIPELINE, None, [f"train.learning_rate={text}"]).train.learning_rate == 0.001


def test_an_exponent_is_a_number_in_free_options_too(yaml_file):
    config = resolve(PIPELINE, yaml_file("model: {options: {dropout: 1e-3}}"))
    assert config.model.options["dropout"] == 0.001
    assert resolve(PIPELINE, None, ["model.options.dropout=1e-3"]).model.options["dropout"] == 0.001


@pytest.mark.parametrize("text", ["e3", "1e", "v1e-3", "1e-3b"])
def test_what_only_looks_like_an_exponent_stays_text(text):
    assert resolve(PIPELINE, None, [f"licence={text}"]).licence == text


def test_labels_are_replaced_as_a_whole(yaml_file):
    config = resolve(PIPELINE, yaml_file("data: {labels: {3: spleen}, label_map: {}}"))
    assert config.data.labels == {3: "spleen"}
    assert config.data.label_map == {}


def test_channels_are_laid_over_one_by_one():
    config = resolve(PIPELINE, None, ["data.channels.ct.pattern='*_ct*'"])
    assert config.data.channels == {"ct": Channel(normalize="ct", pattern="*_ct*")}


def test_a_builder_with_a_new_name_drops_the_old_options():
    config = resolve(PIPELINE, None, ["model.name=segresnet"])
    assert config.model == Builder(name="segresnet")


def test_a_builder_with_a_new_name_keeps_its_own_options():
    config = resolve(PIPELINE, None, ["model={name: segresnet, options: {depth: 3}}"])
    assert config.model == Builder(name="segresnet", options={"depth": 3})


@pytest.mark.parametrize(
    "setting", ["model.options.dropout=0.2", "model={name: unet, options: {dropout: 0.2}}"]
)
def test_a_builder_of_the_same_name_keeps_the_other_options(setting):
    assert resolve(PIPELINE, None, [setting]).model.options == {"features": [8, 16], "dropout": 0.2}


def test_a_list_is_replaced_as_a_whole():
    config = resolve(PIPELINE, None, ["infer.postprocess=[{name: fill_holes}]"])
    assert [step.name for step in config.infer.postprocess] == ["fill_holes"]


def test_the_pipeline_itself_is_never_changed():
    before = PIPELINE.model_dump()
    resolve(PIPELINE, None, ["model.options.dropout=0.9", "data.labels={1: x}", "data.label_map={}"])
    assert PIPELINE.model_dump() == before


@pytest.mark.parametrize(
    ("setting", "where", "hint"),
    [
        ("sed=1", "sed", "did you mean `seed`?"),
        ("train.epoch=1", "train.epoch", "did you mean `epochs`?"),
        ("data.channels.ct.normalise=ct", "data.channels.ct.normalise", "did you mean `normalize`?"),
        ("infer.postprocess=[{nme: x, name: y}]", "infer.postprocess.0.nme", "did you mean `name`?"),
        ("model.nme=x", "model.nme", "did you mean `name`?"),
    ],
)
def test_an_unknown_key_names_the_nearest_of_its_section(setting, where, hint):
    error = refuse(setting)
    assert error.code == "UNKNOWN_KEY"
    assert error.message == f"unknown key `{where}`"
    assert error.hint == hint


def test_all_problems_are_listed_at_once():
    error = refuse("train.epochs=0", "sed=1", "train.learning_rate=-1")
    assert "unknown key `sed`" in error.message
    assert "`train.epochs`" in error.message
    assert "`train.learning_rate`" in error.message


def test_a_bad_value_is_a_config_error_with_exit_code_2():
    error = refuse("train.epochs=many")
    assert (error.code, error.exit_code) == ("CONFIG", 2)


@pytest.mark.parametrize("setting", ["train.epochs", "=3", "train.epochs=[1"])
def test_a_malformed_setting_is_refused(setting):
    assert refuse(setting).exit_code == 2


@pytest.mark.parametrize("text", ["", "- 1", "train: [", "text"])
def test_a_file_that_holds_no_mapping_is_refused(yaml_file, text):
    assert refuse(file=yaml_file(text)).exit_code == 2


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe")
    assert refuse(file=tmp_path / "run.yaml").exit_code == 2


def test_a_missing_file_is_a_config_error(tmp_path):
    assert refuse(file=tmp_path / "nowhere.yaml").hint == "check the path"


def test_a_file_of_another_pipeline_is_refused(yaml_file):
    assert "for pipeline `kidney_ct`" in refuse(file=yaml_file("pipeline: kidney_ct")).message


def test_yaml_cannot_run_code(yaml_file, tmp_path):
    evil = f"summary: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']"
    assert refuse(file=yaml_file(evil)).exit_code == 2
    assert not (tmp_path / "made").exists()


def test_what_is_saved_is_loaded_again(tmp_path):
    save(PIPELINE, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == PIPELINE


@pytest.mark.parametrize("text", ["1e3", "1e-3", "007", "null", "yes", "2024-01-01", "a: b", "Ω\n"])
def test_text_that_looks_like_something_else_is_loaded_again(tmp_path, text):
    config = PIPELINE.model_copy(
        update={"licence": text, "split": PIPELINE.split.model_copy(update={"test_ids": (text,)})}
    )
    save(config, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("number", [1e-5, 3e-5, 1e20, 0.1, 5.0])
def test_numbers_are_loaded_again(tmp_path, number):
    config = resolve(PIPELINE, None, [f"train.learning_rate={number!r}"])
    save(config, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml").train.learning_rate == number


def test_a_saved_config_begins_with_its_pipeline():
    assert dump(PIPELINE).startswith("pipeline: liver_ct\nsummary: Liver – in CT.\n")


def test_a_saved_config_without_a_pipeline_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1")
    with pytest.raises(ConfigError, match="name"):
        load(tmp_path / "config.yaml")


def test_equal_configs_have_no_differences():
    assert differences(PIPELINE, resolve(PIPELINE)) == []


def test_a_difference_names_key_old_and_new():
    assert differences(PIPELINE, resolve(PIPELINE, None, ["train.epochs=31"])) == ["train.epochs: 30 -> 31"]


def test_an_option_set_to_none_differs_from_no_option():
    new = resolve(PIPELINE, None, ["model.options.norm=null"])
    assert differences(PIPELINE, new) == ["model.options.norm: unset -> None"]


def test_a_label_that_went_differs():
    new = resolve(PIPELINE, None, ["data={labels: {1: liver}, label_map: {nonzero: 1}}"])
    assert differences(PIPELINE, new) == ["data.labels.7: tumour -> unset", "data.label_map.205: 7 -> unset"]


def test_flatten_keeps_lists_and_empty_mappings():
    assert flatten({"a": {"b": [1], "c": {}}, "d": 2}) == {"a.b": [1], "a.c": {}, "d": 2}


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {}},
        {"labels": {0: "background"}},
        {"labels": {-1: "x"}},
        {"labels": {65536: "x"}},
        {"labels": {value: str(value) for value in range(1, 256)}},
        {"label_map": {205: 3}},
        {"channels": {}},
        {"channels": {"x": {"normalize": "fixed"}}},
        {"channels": {"x": {"normalize": "fixed", "window": [100, 0]}}},
    ],
)
def test_data_that_cannot_be_meant_is_refused(change):
    tree = PIPELINE.model_dump()
    tree["data"] |= change
    with pytest.raises(ConfigError):
        parse(tree)


@pytest.mark.parametrize(
    "setting", ["augment.noise_variance=[-0.1, 0.1]", "augment.rotate_p=1.5", "split.folds=1"]
)
def test_a_setting_out_of_its_range_is_refused(setting):
    assert refuse(setting).exit_code == 2


@pytest.mark.parametrize("name", ["Liver", "a b", "../x", ""])
def test_a_pipelines_name_is_a_plain_word(name):
    with pytest.raises(ConfigError):
        parse({**PIPELINE.model_dump(), "name": name})


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        PIPELINE.seed = 3


def test_a_broken_yaml_file_is_reported_on_one_line(tmp_path):
    (tmp_path / "run.yaml").write_text("pipeline: [\n  a: {")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "run.yaml")
    assert "\n" not in caught.value.message
