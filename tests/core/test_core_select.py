import subprocess
import sys

import pytest

from medseg.core.errors import ConfigError
from medseg.core.select import select, suggest


def dice(logits, label, *, smooth=1.0, weight=None):
    return smooth, weight


def open_ended(logits, **options):
    return options


class Shift:
    """As outside code is written: no keyword-only parameter."""

    def __init__(self, keys, amount=0.0):
        self.keys, self.amount = keys, amount


NOT_CALLABLE = 3
TABLE = {"dice": dice, "dice_focal": dice, "open": open_ended}
HERE = __name__


def refuse(name, options=None):
    with pytest.raises(ConfigError) as caught:
        select("loss", TABLE, name, options)
    return caught.value


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "outside", sys.modules[HERE])


def test_options_are_bound():
    assert select("loss", TABLE, "dice", {"smooth": 0.5})(None, None) == (0.5, None)


def test_without_options_the_defaults_hold():
    assert select("loss", TABLE, "dice")(None, None) == (1.0, None)


def test_an_unknown_name_names_the_nearest():
    error = refuse("dice_focl")
    assert (error.code, error.hint) == ("UNKNOWN_NAME", "did you mean `dice_focal`?")
    assert error.message == "no loss is called `dice_focl`"


def test_a_name_like_none_lists_all():
    assert refuse("xyz").hint == "known: dice, dice_focal, open"


def test_an_unknown_option_names_the_nearest():
    error = refuse("dice", {"smoth": 1})
    assert (error.code, error.hint) == ("UNKNOWN_OPTION", "did you mean `smooth`?")


@pytest.mark.parametrize("option", ["logits", "label"])
def test_what_is_passed_at_run_time_is_no_option(option):
    assert refuse("dice", {option: 1}).code == "UNKNOWN_OPTION"


def test_an_open_ended_builder_takes_any_option():
    assert select("loss", TABLE, "open", {"anything": 1})(None) == {"anything": 1}


def test_outside_code_is_reached_by_module_and_attribute():
    assert select("loss", {}, "outside:dice", {"smooth": 2.0})(None, None) == (2.0, None)


def test_the_rule_of_keyword_only_options_holds_outside_too():
    assert refuse("outside:dice", {"logits": 1}).code == "UNKNOWN_OPTION"


def test_outside_code_without_keyword_only_options_takes_all_that_can_be_named():
    built = select("transform", {}, "outside:Shift", {"keys": ["image"], "amount": 2.0})()
    assert (built.keys, built.amount) == (["image"], 2.0)


def test_options_of_outside_code_are_checked_too():
    assert refuse("outside:Shift", {"amont": 1}).hint == "did you mean `amount`?"


@pytest.mark.parametrize(
    "name",
    ["nowhere_at_all:loss", "outside:nothing", "outside:", ":loss", ".relative:loss", "outside:NOT_CALLABLE"],
)
def test_what_cannot_be_imported_is_a_config_error(name):
    assert refuse(name).code == "UNKNOWN_NAME"


def test_nothing_known_is_said_so():
    assert suggest("a", []) == "known: none"


def test_core_and_config_do_not_import_the_heavy_packages():
    code = (
        "import sys, medseg.config, medseg.config.layers, medseg.config.pipelines, medseg.core.select\n"
        "print(*{'torch', 'monai', 'mlflow', 'SimpleITK', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
