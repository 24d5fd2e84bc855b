"""The grammar of `refer`: what is understood, what is a thing, and what is an error."""

import pytest

from terralabel.errors import SettingsError
from terralabel.labels.phrase_words import COMPASS, NOT_UNDERSTOOD, PLACES, RANKS
from terralabel.labels.phrases import Condition, Phrase, Pick, parse, things_of

RIVER = Phrase("river")


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("building", Phrase("building")),
        ("The red roofs.", Phrase("red roofs")),
        ("all buildings", Phrase("buildings")),
        ("the largest building", Phrase("building", Pick("area"))),
        ("the three largest buildings", Phrase("buildings", Pick("area", count=3))),
        ("the largest 3 buildings", Phrase("buildings", Pick("area", count=3))),
        ("the second smallest field", Phrase("field", Pick("area", most=False, first=2))),
        ("the 3rd largest field", Phrase("field", Pick("area", first=3))),
        ("5 cars", Phrase("cars", Pick("score", count=5))),
        ("both of the largest cars", Phrase("cars", Pick("area", count=2))),
        ("the most northern house", Phrase("house", Pick("north"))),
        ("the most south-easterly house", Phrase("house", Pick("south-east"))),
        ("the building east of the river", Phrase("building", None, (Condition("side", "east", to=RIVER),))),
        ("building to the north-west of the river", Phrase("building", None, (Condition("side", "north-west", to=RIVER),))),
        ("building on the left side of the river", Phrase("building", None, (Condition("side", "left", to=RIVER),))),
        ("building above the river", Phrase("building", None, (Condition("side", "up", to=RIVER),))),
        ("building nearest to the river", Phrase("building", Pick("distance", most=False, to=RIVER))),
        ("the nearest building to the river", Phrase("building", Pick("distance", most=False, to=RIVER))),
        ("the two buildings farthest from the river", Phrase("buildings", Pick("distance", True, 2, to=RIVER))),
        ("building within 50 m of the river", Phrase("building", None, (Condition("within", "", 50, "m", RIVER),))),
        ("building within 1.5km of the river", Phrase("building", None, (Condition("within", "", 1.5, "km", RIVER),))),
        ("building touching the river", Phrase("building", None, (Condition("touching", to=RIVER),))),
        ("building larger than 200 m2", Phrase("building", None, (Condition("larger", "", 200, "m2"),))),
        ("building smaller than 2 square km", Phrase("building", None, (Condition("smaller", "", 2, "square km"),))),
        ("building larger than the river", Phrase("building", None, (Condition("larger", to=RIVER),))),
        ("the building in the upper left corner", Phrase("building", None, (Condition("place", "up-left"),))),
        ("the building on the left", Phrase("building", None, (Condition("place", "left"),))),
        ("building in the northern part of the image", Phrase("building", None, (Condition("place", "north"),))),
        ("building in the north of the river", Phrase("building", None, (Condition("side", "north", to=RIVER),))),
        ("the building that is located south of the river", Phrase("building", None, (Condition("side", "south", to=RIVER),))),
    ],
)
def test_what_is_understood(text, phrase):
    assert parse(text) == phrase


@pytest.mark.parametrize(
    "text",
    [
        "ships in the harbour", "group of trees", "roof of the house", "forest", "dense rainforest", "buildings and trees",
        "first aid post", "large house", "建物と道路", "здание у реки", "مبنى", "bridge over the river", "x" * 10_000, "house, and",
        "northern part of the lake", "2", "gauge-1 <b>rail</b> & 'x'; DROP TABLE",
    ],
)  # fmt: skip
def test_what_is_no_relation_is_a_thing(text):
    assert parse(text) == Phrase(text)


def test_conditions_belong_to_the_nearest_thing_and_after_a_joint_to_the_first():
    nested = parse("the house east of the river north of the bridge")
    assert nested.conditions[0].to == Phrase("river", None, (Condition("side", "north", to=Phrase("bridge")),))
    for joint in (", ", " and ", ", and "):
        both = parse(f"the house east of the river{joint}north of the bridge")
        assert both.conditions == (Condition("side", "east", to=RIVER), Condition("side", "north", to=Phrase("bridge")))


def test_picks_may_stand_inside_conditions():
    phrase = parse("the two largest houses within 40 m of the longest road and in the north")
    assert phrase.pick == Pick("area", count=2)
    assert phrase.conditions[0].to == Phrase("road", Pick("length"))
    assert phrase.conditions[1] == Condition("place", "north")
    assert things_of(phrase) == ["houses", "road"]


def test_quotes_and_relations_off_give_the_words_as_they_are():
    assert parse('"the largest house near the river"') == Phrase("the largest house near the river")
    assert parse('the largest "house near the river"') == Phrase("house near the river", Pick("area"))
    assert parse("the largest house near the river", relations=False) == Phrase("the largest house near the river")


@pytest.mark.parametrize("word", NOT_UNDERSTOOD)
def test_relations_that_are_not_understood_are_named(word):
    with pytest.raises(SettingsError, match=f"^'{word}' is a relation that is not understood.*nearest to.*double quotes"):
        parse(f"the building {word} the river")


@pytest.mark.parametrize(
    ("text", "word", "near"),
    [
        ("the tallest building", "tallest", ""),
        ("the two oldest buildings", "oldest", ""),
        ("the innermost building", "innermost", ""),
        ("the most expensive building", "most expensive", ""),
        ("the bigest building", "bigest", "biggest"),
        ("the building nearst to the river", "nearst", "nearest"),
        ("the building to the nort of the river", "nort", "north"),
    ],
)
def test_words_in_the_place_of_a_relation_are_named_with_the_nearest_known(text, word, near):
    with pytest.raises(SettingsError, match=f"^'{word}' is a relation that is not understood") as caught:
        parse(text)
    assert (f"Did you mean '{near}'?" in str(caught.value)) == bool(near)


@pytest.mark.parametrize("text", ["", "   ", "\x00\x07\n", '""', "...", '" "'])
def test_a_text_without_words_is_empty(text):
    with pytest.raises(SettingsError, match="The text is empty"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("the largest", "No thing is named"),
        ("east of the river", "No thing is named before 'east of the river'"),
        ("the building east of", "ends after 'of': of what"),
        ("the nearest building", "'nearest to' what"),
        ("the largest building nearest to the river", "Two picks in one phrase"),
        ("the building within 5 parsecs of the river", "expected a unit, one of m"),
        ("the building within -5 m of the river", "'-5': expected a number"),
        ("the building larger than 1e30 m2", "expected a"),
        ("0 houses", "expected a count from 1"),
        ("99999999999999999999 largest houses", "expected a count from 1"),
        ("house " + "east of x " * 20, "more than 12 relations"),
    ],
)
def test_what_is_incomplete_says_so(text, says):
    with pytest.raises(SettingsError, match=says):
        parse(text)


def test_control_characters_are_spaces():
    assert parse("the\x00largest\x1b[31m\nbuilding\ud800") == Phrase("[31m building", Pick("area"))


def test_long_texts_are_read_in_time():
    import time

    for text in ("east " * 2000, "of " * 3000, "a, " * 3000, "the largest " * 800, '"' * 10_000, "within 5 m " * 900):
        began = time.process_time()
        try:
            parse(text)
        except SettingsError as error:
            assert len(str(error)) < 1000
        assert time.process_time() - began < 3


@pytest.mark.parametrize("rank", sorted(RANKS))
def test_every_rank_picks(rank):
    to = {"nearest": " to the river", "closest": " to the river", "farthest": " from the river", "furthest": " from the river"}
    pick = parse(f"the {rank} building{to.get(rank, '')}").pick
    assert pick is not None
    assert (pick.by, pick.most) == RANKS[rank]


@pytest.mark.parametrize("word", sorted(COMPASS))
def test_every_direction_is_one(word):
    assert parse(f"building {word} of the river").conditions == (Condition("side", COMPASS[word], to=RIVER),)


@pytest.mark.parametrize("word", sorted(PLACES))
def test_every_place_is_one(word):
    assert parse(f"building in the {word}").conditions == (Condition("place", PLACES[word]),)
