from __future__ import annotations

from dataclasses import dataclass

import pytest

from terralabel.core.settings import changed, coerce, from_mapping, sentence, setting
from terralabel.errors import SettingsError


@dataclass(frozen=True)
class Oven:
    """Settings of every kind."""

    heat: float = setting(180.0, "How hot.", low=0, high=300)
    trays: int = setting(2, "How many.", low=1)
    mode: str = setting("fan", "How.", choices=("fan", "grill"))
    light: bool = setting(True, "Lamp.", results=False)
    rows: tuple[int, ...] | None = setting(None, "Which.")


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("heat", "200", 200.0),
        ("heat", 200, 200.0),
        ("trays", "3", 3),
        ("trays", "+3", 3),
        ("mode", "grill", "grill"),
        ("light", False, False),
        ("rows", "4, 3,2", (4, 3, 2)),
        ("rows", [4, 3], (4, 3)),
        ("rows", 4, (4,)),
        ("rows", None, None),
    ],
)
def test_values_become_what_the_field_is(name: str, value: object, expected: object) -> None:
    found = coerce(Oven, name, value)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("heat", "nan", "expected a number; got 'nan'"),
        ("heat", float("inf"), "expected a number"),
        ("heat", True, "expected a number; got True"),
        ("heat", 301, "at most 300; got 301"),
        ("trays", 2.0, "expected a whole number; got 2.0"),
        ("trays", "2.5", "expected a whole number"),
        ("trays", "³", "expected a whole number"),
        ("trays", "--3", "expected a whole number"),
        ("trays", 0, "at least 1; got 0"),
        ("trays", None, "got nothing"),
        ("mode", "gril", "Did you mean 'grill'"),
        ("light", "yes", "expected true or false"),
        ("light", 1, "expected true or false"),
        ("rows", ["a"], "comma-separated list"),
        ("rows", {"a": 1}, "comma-separated list"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(name: str, value: object, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        coerce(Oven, name, value, "oven.yaml:3: ")
    assert message in str(caught.value) and str(caught.value).startswith(f"oven.yaml:3: {name}")


def test_unknown_names_bring_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"unknown setting 'heet'\. Did you mean 'heat'"):
        from_mapping(Oven, {"heet": 1})
    with pytest.raises(SettingsError, match="Known: heat, light, mode"):
        from_mapping(Oven, {"zzzzzz": 1})


def test_only_what_changes_results_counts_as_changed() -> None:
    stored = {"heat": 180.0, "trays": 2, "mode": "fan", "rows": None}
    assert changed(stored, Oven(light=False)) == []
    assert changed(stored, Oven(heat=200.0, rows=(1,))) == ["heat: 180.0 -> 200.0", "rows: None -> [1]"]
    assert changed({}, Oven()) == []  # a setting that is newer than the run has its default there


def test_the_sentence_lists_the_choices() -> None:
    item = Oven.__dataclass_fields__["mode"]
    assert sentence(item) == "How. One of: fan, grill."
