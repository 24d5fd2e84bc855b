"""The words of the grammar in `labels.phrases`, and what each stands for."""

from __future__ import annotations

__all__ = [
    "ARTICLES",
    "COMPASS",
    "COUNTS",
    "FILLERS",
    "NOT_UNDERSTOOD",
    "ORDINALS",
    "ORDINARY_MOST",
    "PLACES",
    "PLACE_TAILS",
    "RANKS",
    "SIDES",
    "UNITS",
    "UNITS_OF_AREA",
    "understood",
]

ARTICLES = ("the", "a", "an", "all", "every", "any")
#: Words between a thing and its condition that say nothing.
FILLERS = ("that", "which", "is", "are", "lies", "lie", "lying", "located", "situated", "standing")

_NUMBERS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
COUNTS = {**{word: number for number, word in enumerate(_NUMBERS, 1)}, "both": 2}
ORDINALS = {
    word: number
    for number, word in enumerate(
        ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"), 1
    )
}

_CARDINAL = {"north": "north", "south": "south", "east": "east", "west": "west"}
_BETWEEN = {f"{ns}{dash}{ew}": f"{ns}-{ew}" for ns in ("north", "south") for ew in ("east", "west") for dash in ("", "-")}
#: Words for directions on the map.
COMPASS = {**_CARDINAL, **_BETWEEN}
#: Words for directions in the picture.
SIDES = {"left": "left", "right": "right", "above": "up", "below": "down", "top": "up", "bottom": "down"}

#: What may stand before a thing: the measure, and whether the most of it comes first.
RANKS = {
    "largest": ("area", True), "biggest": ("area", True), "smallest": ("area", False),
    "longest": ("length", True), "shortest": ("length", False), "best": ("score", True),
    "nearest": ("distance", False), "closest": ("distance", False), "farthest": ("distance", True), "furthest": ("distance", True),
    **{f"{word}ernmost": (side, True) for word, side in COMPASS.items()},
    **{f"{word}most": (side, True) for word, side in COMPASS.items()},
    "leftmost": ("left", True), "rightmost": ("right", True), "topmost": ("up", True), "uppermost": ("up", True),
    "bottommost": ("down", True), "lowermost": ("down", True),
}  # fmt: skip

_COMPASS_PLACES = {form: side for word, side in COMPASS.items() for form in (word, f"{word}ern")}
_CORNERS = {
    f"{one} {other}": f"{down}-{side}"
    for one, down in (("top", "up"), ("upper", "up"), ("bottom", "down"), ("lower", "down"))
    for other, side in (("left", "left"), ("right", "right"))
}
#: What may follow "in the".
PLACES = {
    **_COMPASS_PLACES, **_CORNERS, "left": "left", "right": "right", "top": "up", "upper": "up", "bottom": "down", "lower": "down",
    "centre": "middle", "center": "middle", "middle": "middle",
}  # fmt: skip
#: "the north of the image" is a part of it; of anything else it is a direction.
PLACE_TAILS = ("image", "picture", "photo", "scene", "map", "mosaic")

#: Metres; 0 for pixels.
UNITS = {
    "m": 1.0, "metre": 1.0, "metres": 1.0, "meter": 1.0, "meters": 1.0, "km": 1000.0, "kilometres": 1000.0, "kilometers": 1000.0,
    "ft": 0.3048, "feet": 0.3048, "px": 0.0, "pixels": 0.0,
}  # fmt: skip
#: Square metres; 0 for pixels.
UNITS_OF_AREA = {
    "m2": 1.0, "m²": 1.0, "sqm": 1.0, "square m": 1.0, "square metres": 1.0, "square meters": 1.0, "ha": 10_000.0,
    "hectares": 10_000.0, "hectare": 10_000.0, "km2": 1e6, "km²": 1e6, "square km": 1e6, "px": 0.0, "pixels": 0.0,
}  # fmt: skip

#: Relations that people say and that have no meaning here that all would agree on.
NOT_UNDERSTOOD = (
    "next to", "close to", "adjacent to", "in front of", "surrounded by", "opposite of", "opposite", "beside", "near", "behind",
    "between", "beyond", "outside",
)  # fmt: skip
#: Words in -est and -most that rank nothing.
ORDINARY_MOST = (
    "forest", "rainforest", "harvest", "request", "interest", "conquest", "contest", "protest", "almost", "midwest", "compost",
    "invest", "digest", "southwest", "northwest", "south-west", "north-west",
)  # fmt: skip


def understood() -> str:
    """What is understood, in one sentence."""
    return (
        "Understood: counts and ordinals; largest, smallest, longest, shortest, best, northernmost (and so on), leftmost, rightmost,"
        " topmost, bottommost; nearest to, farthest from, north of (and so on), left of, right of, above, below, within LENGTH of,"
        " touching, inside, larger than, smaller than, in the north (and so on) or in the upper left (and so on)."
    )
