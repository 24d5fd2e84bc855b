"""What phrases mean among found things, on a small map with known places."""

import numpy as np
import pytest
import shapely

from terralabel.errors import SettingsError
from terralabel.labels.phrases import parse
from terralabel.labels.relations import Ground, Things, resolve

#: 100 m x 100 m, half a metre a pixel. A river from south to north at x = 40; houses (x, y, side) in metres, y north.
HOUSES = [(10, 80, 6), (20, 20, 12), (60, 50, 8), (70, 90, 10), (90, 10, 4), (60, 62, 5)]
GROUND = Ground(200, 200, np.array([[0, 0], [100, 0], [100, 100], [0, 100]], float), "m")


def things(shapes, scores=None) -> Things:
    shapes = np.array(shapes, dtype=object)
    drawn = np.array([shapely.transform(s, lambda xy: xy * 2 - np.array([0, 200])) for s in shapes], dtype=object)
    area = shapely.area(shapes)
    scores = np.linspace(0.9, 0.5, len(shapes)) if scores is None else np.array(scores)
    return Things(shapes, drawn, area, (area * 4).astype(int), scores)


def found() -> dict[str, Things]:
    houses = things([shapely.box(x - s / 2, y - s / 2, x + s / 2, y + s / 2) for x, y, s in HOUSES])
    field = shapely.box(50, 40, 100, 100)
    return {
        "house": houses,
        "houses": houses,
        "river": things([shapely.box(38, 0, 42, 100)]),
        "field": things([field]),
        "church": things([]),
        "yard": things([shapely.box(13, 76, 20, 84), shapely.box(0, 0, 5, 5)]),
    }


def means(text: str) -> list[int]:
    return resolve(parse(text), found(), GROUND).which.tolist()


@pytest.mark.parametrize(
    ("text", "which"),
    [
        ("house", [0, 1, 2, 3, 4, 5]),
        ("the largest house", [1]),
        ("the smallest house", [4]),
        ("the three largest houses", [1, 3, 2]),
        ("the second largest house", [3]),
        ("2 houses", [0, 1]),
        ("the northernmost house", [3]),
        ("the two southernmost houses", [4, 1]),
        ("the leftmost house", [0]),
        ("the bottommost house", [4]),
        ("the house in the south-west", [1]),
        ("houses in the upper left", [0]),
        ("houses in the middle", [2, 5]),
        ("houses east of the river", [2, 3, 4, 5]),
        ("houses west of the river", [0, 1]),
        ("the largest house east of the river", [3]),
        ("the house nearest to the river", [1]),
        ("the 2 houses farthest from the river", [4, 0]),
        ("the house nearest to the smallest house", [2]),
        ("houses within 14 m of the river", [1, 2]),
        ("houses within 28 px of the river", [1, 2]),
        ("houses within 14 m of the river and east of the river", [2]),
        ("houses inside the field", [2, 3, 5]),
        ("houses larger than 50 m2", [1, 2, 3]),
        ("houses larger than 200 px", [1, 2, 3]),
        ("houses smaller than the house in the south-west", [0, 2, 3, 4, 5]),
        ("houses larger than the river", []),
        ("house touching the yard", [0]),
        ("houses north of the house nearest to the largest house", [3, 5]),
        ("house north of house", [3, 5]),
        ("houses nearest to the church", []),
        ("houses east of the church", []),
        ("houses smaller than the church", []),
        ("the largest church", []),
        ("the tenth largest house", []),
        ("the longest house", [1]),
    ],
)
def test_what_is_meant(text, which):
    assert means(text) == which


def test_the_steps_say_how_it_came():
    steps = resolve(parse("the largest house east of the river"), found(), GROUND).steps
    assert steps == (
        "6 'house' found",
        "1 'river' found",
        "4 'house' east of 'river'",
        "1 'house' picked: largest",
    )


def test_of_equals_the_first_found_is_taken():
    same = {"house": things([shapely.box(0, 0, 1, 1), shapely.box(5, 0, 6, 1)])}
    assert resolve(parse("the largest house"), same, GROUND).which.tolist() == [0]


@pytest.mark.parametrize("text", ["house within 5 m of the river", "house larger than 2 ha"])
def test_metres_need_a_coordinate_system(text):
    nowhere = Ground(200, 200, GROUND.corners, "px")
    with pytest.raises(SettingsError, match="no coordinate system"):
        resolve(parse(text), found(), nowhere)


def test_map_and_picture_differ_where_the_picture_is_turned():
    houses = found()["house"]
    turned = np.array(
        [shapely.transform(s, lambda xy: np.stack([xy[:, 1], -xy[:, 0]], 1)) for s in houses.shapes], dtype=object
    )
    there = {"house": Things(houses.shapes, turned, houses.area, houses.pixels, houses.score)}
    assert resolve(parse("northernmost house"), there, GROUND).which.tolist() == [3]
    assert resolve(parse("topmost house"), there, GROUND).which.tolist() == [0]
