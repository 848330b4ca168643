"""Settings check themselves and say what is wrong in a sentence."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.settings import SettingError, Settings, setting


@dataclass
class Example(Settings):
    beta: float = setting(0.1, "β", "Strength.", low=0.0, high=1.0, step=0.05)
    epochs: int = setting(1, "Epochs", "Passes over the data.", low=1)
    packing: bool = setting(False, "Packing", "Fill rows.", advanced=True)
    loss: str = setting("sigmoid", "Loss", "Which loss.", choices=("sigmoid", "ipo"))
    note: str = setting("", "Note", "Anything.")
    limit: int | None = setting(None, "Limit", "Rows; empty means all.", low=1)


def test_defaults_are_used_where_nothing_is_given():
    assert Example.parse({}) == Example()


def test_values_go_out_and_come_in_again():
    settings = Example.parse({"beta": 0.5, "loss": "ipo", "packing": True})
    assert Example.parse(settings.values()) == settings


@pytest.mark.parametrize(("name", "given_value", "parsed"), [
    ("beta", "0.25", 0.25), ("beta", 1, 1.0), ("epochs", "3", 3), ("epochs", 2.0, 2), ("epochs", "1e2", 100),
    ("packing", "yes", True), ("packing", " FALSE ", False), ("packing", "0", False), ("packing", True, True),
    ("note", 7, "7"), ("limit", 5, 5), ("limit", None, None),
])  # fmt: skip
def test_a_value_takes_the_setting_s_type(name, given_value, parsed):
    value = getattr(Example.parse({name: given_value}), name)
    assert value == parsed
    assert type(value) is type(parsed)


@pytest.mark.parametrize(("name", "value", "sentence"), [
    ("beta", 2.0, "β must be at most 1, got 2."),
    ("beta", -0.1, "β must be at least 0, got -0.1."),
    ("beta", "much", "β must be a number; got 'much'."),
    ("beta", None, "β must be a number; got None."),
    ("beta", [1], "β must be a number; got [1]."),
    ("beta", "nan", "β must be a finite number; got 'nan'."),
    ("beta", float("inf"), "β must be a finite number; got inf."),
    ("epochs", 0, "Epochs must be at least 1, got 0."),
    ("epochs", 1.5, "Epochs must be a whole number, got 1.5."),
    ("epochs", 10**400, "Epochs must be a finite number"),
    ("packing", "maybe", "Packing must be true or false; got 'maybe'."),
    ("packing", 1, "Packing must be true or false; got 1."),
    ("loss", "kto", "Loss must be one of sigmoid, ipo; got 'kto'."),
    ("limit", 0, "Limit must be at least 1, got 0."),
])  # fmt: skip
def test_a_wrong_value_is_refused_in_a_sentence(name, value, sentence):
    with pytest.raises(SettingError) as caught:
        Example.parse({name: value})
    assert str(caught.value).startswith(sentence)


def test_an_unknown_name_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(SettingError, match=r"no setting called 'betta'. Known: beta, epochs, packing"):
        Example.parse({"betta": 1})


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
def test_any_value_at_all_is_taken_or_refused_but_never_crashes(value):
    for spec in Example.specs().values():
        try:
            taken = spec.check(value)
        except SettingError as error:
            assert str(error).startswith(spec.label)
        else:
            assert taken is None or type(taken) is spec.kind


def test_specs_keep_the_order_and_carry_what_the_form_shows():
    specs = Example.specs()
    assert list(specs) == ["beta", "epochs", "packing", "loss", "note", "limit"]
    assert (specs["beta"].low, specs["beta"].high, specs["beta"].step) == (0.0, 1.0, 0.05)
    assert specs["packing"].advanced
    assert not specs["beta"].advanced
    assert specs["limit"].kind is int


def test_settings_of_a_child_class_come_after_its_parent_s():
    @dataclass
    class Child(Example):
        beta: float = setting(0.3, "β", "Another default.", low=0.0, high=1.0)
        seed: int = setting(0, "Seed", "Random.")

    assert list(Child.specs()) == [*Example.specs(), "seed"]
    assert Child.parse({}).beta == 0.3


def test_a_misspelt_rule_is_refused_where_it_is_written():
    with pytest.raises(TypeError, match="unknown"):
        setting(1, "Label", "Help", lo=0)
