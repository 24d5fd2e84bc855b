"""What a text asks for: a thing in words for a locator, and what is to hold on the map, by a small grammar.

    phrase    = [article] [pick] thing { [","] ["and"] condition }
    pick      = count | [count] rank | rank count | ordinal rank          three largest, largest 3, second largest, 5
    rank      = largest | smallest | longest | shortest | best | DIRECTION-most | nearest | farthest
    condition = side "of" phrase | "left of" / "right of" / "above" / "below" phrase
              | "nearest to" phrase | "farthest from" phrase
              | "within" LENGTH "of" phrase | "touching" phrase | "inside" phrase
              | "larger than" AREA-or-phrase | "smaller than" AREA-or-phrase
              | "in the" PLACE ["part" | "half" | "corner" | "side"] ["of the image"]
    thing     = whatever is left: words for the locator; "in double quotes" nothing is a relation

A condition belongs to the nearest thing before it; after a comma or "and" to the first thing of the text. `docs/refer.md` has
every word with its meaning. Words that are plainly meant as a relation and are none of these are an error that names them.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from dataclasses import dataclass

from terralabel.errors import SettingsError
from terralabel.labels.phrase_words import (
    ARTICLES,
    COMPASS,
    COUNTS,
    FILLERS,
    NOT_UNDERSTOOD,
    ORDINALS,
    ORDINARY_MOST,
    PLACE_TAILS,
    PLACES,
    RANKS,
    SIDES,
    UNITS,
    UNITS_OF_AREA,
    understood,
)

__all__ = ["Condition", "Phrase", "Pick", "parse", "things_of"]

#: "east of A east of B ...": no deeper than this.
_DEEPEST = 12
_TOKEN = re.compile(r'"[^"]*"|[^\s",]+|,')


@dataclass(frozen=True)
class Pick:
    """Of several the first `count` from number `first` (1 is the best) by `by`: "area", "length", "score", "north"..., "distance".

    `most`: the largest value first. `count` None: all. `to`: what distances are measured to.
    """

    by: str
    most: bool = True
    count: int | None = 1
    first: int = 1
    to: Phrase | None = None


@dataclass(frozen=True)
class Condition:
    """`kind`: "side", "place", "within", "touching", "inside", "larger" or "smaller".

    `name` is the side or place; `amount` and `unit` a length or an area; `to` the other thing.
    """

    kind: str
    name: str = ""
    amount: float = 0.0
    unit: str = ""
    to: Phrase | None = None


@dataclass(frozen=True)
class Phrase:
    """`thing`: words for the locator. Of what it finds, `conditions` must hold; then `pick` chooses, None: all."""

    thing: str
    pick: Pick | None = None
    conditions: tuple[Condition, ...] = ()


def things_of(phrase: Phrase) -> list[str]:
    """The things of a phrase and of those in it, each once, in the order of the text."""
    others = [c.to for c in phrase.conditions] + [phrase.pick.to if phrase.pick else None]
    found = [phrase.thing] + [thing for other in others if other is not None for thing in things_of(other)]
    return list(dict.fromkeys(found))


def parse(text: str, *, relations: bool = True) -> Phrase:
    """The phrase of a text; with `relations` False all of it is the thing.

    `SettingsError` for a text without words, and for words that mean a relation that is not understood: it names them.
    """
    clean = _cleaned(text)
    if not clean.strip('" ,.;:!?'):
        raise SettingsError('The text is empty: say what to find, for example "the largest building".')
    if not relations:
        return Phrase(clean)
    tokens = [(word, "" if word.startswith('"') else word.casefold()) for word in _TOKEN.findall(clean)]
    if tokens:
        last, low = tokens[-1]
        tokens[-1] = (last if not low else last.rstrip(".;:!?"), low.rstrip(".;:!?"))
    parser = _Parser([token for token in tokens if token[0]])
    phrase = parser.phrase(0)
    if parser.at < len(parser.tokens):
        raise SettingsError(f"{parser.rest()!r} cannot be understood after {clean[:60]!r}. {understood()}")
    return phrase


def _cleaned(text: str) -> str:
    """One line without control characters and broken code points."""
    kept = (" " if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter for letter in text)
    return " ".join("".join(kept).split())


class _Parser:
    """Reads tokens (as written, and in lower case; "" for quoted ones) from left to right."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens, self.at = tokens, 0

    def low(self, ahead: int = 0) -> str:
        """The token that comes, in lower case; "" at the end and for quoted text."""
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def takes(self, *words: str) -> bool:
        """Step over these words if they come next."""
        if all(self.low(k) == word for k, word in enumerate(words)):
            self.at += len(words)
            return True
        return False

    def takes_one(self, words: object) -> str:
        """Step over one of these words; "" if none comes."""
        word = self.low()
        if word and word in words:  # type: ignore[operator]
            self.at += 1
            return word
        return ""

    def rest(self) -> str:
        """What is left, at most 60 letters."""
        return " ".join(word for word, _ in self.tokens[self.at :])[:60]

    def phrase(self, depth: int) -> Phrase:
        if depth > _DEEPEST:
            raise SettingsError(f"The text puts more than {_DEEPEST} relations into one another: say it in fewer words.")
        self.takes_one(ARTICLES)
        pick = self.pick()
        if pick is not None and self.takes("of"):  # two of the largest
            self.takes_one(ARTICLES)
            rank = self.rank()
            pick = Pick(*rank, pick.count, pick.first) if rank and pick.by == "score" else pick
        thing = self.thing(pick)
        conditions: list[Condition] = []
        while self.at < len(self.tokens):
            start = self.at
            joined = self.joint()
            if joined and depth:  # after a comma or "and" the first thing goes on
                self.at = start
                break
            found = self.condition(depth, pick)
            if found is None:
                self.at = start
                break
            if isinstance(found, Pick):
                pick = found
            else:
                conditions.append(found)
        if pick is not None and pick.by == "distance" and pick.to is None:
            word = "nearest to" if not pick.most else "farthest from"
            raise SettingsError(f'{word!r} what? Say it as in "the building {word} the river".')
        return Phrase(thing, pick, tuple(conditions))

    def joint(self) -> bool:
        """Step over what joins conditions: a comma, "and", "that is"; whether it began anew."""
        anew = False
        while True:
            if self.takes(",") or self.takes("and"):
                anew = True
            elif not self.takes_one(FILLERS):
                return anew

    # ---------------------------------------------------------------------------------------------------------- picks

    def pick(self) -> Pick | None:
        """Counts and ranks before the thing."""
        first = self.ordinal()
        count = self.count()
        rank = self.rank()
        if rank is None:
            if first:
                self.at -= 1  # "first aid post" is a thing
            return Pick("score", count=count) if count else None
        by, most = rank
        if count is None and first is None:
            count = self.count()
        return Pick(by, most, 1 if count is None else count, first or 1)

    def ordinal(self) -> int | None:
        word = self.takes_one(ORDINALS)
        if word:
            return ORDINALS[word]
        numbered = re.fullmatch(r"(\d{1,3})(st|nd|rd|th)", self.low())
        if numbered is None or int(numbered[1]) == 0:
            return None
        self.at += 1
        return int(numbered[1])

    def count(self) -> int | None:
        word = self.takes_one(COUNTS)
        if word:
            return COUNTS[word]
        if self.low().isdecimal() and self.at + 1 < len(self.tokens):
            if len(self.low()) > 6 or int(self.low()) == 0:
                raise SettingsError(
                    f"{self.low()[:20]} {self.low(1)}: expected a count from 1 to 999999; in double quotes it is none."
                )
            self.at += 1
            return int(self.low(-1))
        return None

    def rank(self) -> tuple[str, bool] | None:
        word = self.low()
        if word in RANKS:
            self.at += 1
            return RANKS[word]
        if word == "most":
            by = COMPASS.get(self.low(1).removesuffix("erly").removesuffix("ern")) or SIDES.get(self.low(1))
            if by is None:
                raise _unknown(f"most {self.low(1)}")
            self.at += 2
            return by, True
        ends = (len(word) > 5 and word.endswith("est")) or (len(word) > 6 and word.endswith("most"))
        near = _like(word, RANKS)
        if near or (ends and word not in ORDINARY_MOST):
            raise _unknown(word, near)
        return None

    # ---------------------------------------------------------------------------------------------------------- things

    def thing(self, pick: Pick | None) -> str:
        """The words up to a condition, a comma or "and" before one, or the end."""
        words: list[str] = []
        while self.at < len(self.tokens) and not self.condition_comes(pick):
            word, low = self.tokens[self.at]
            if low:
                self.check(low)
            words.append(word if low else word[1:-1])
            self.at += 1
        thing = " ".join(words).replace(" ,", ",").strip(" ,")
        if not thing:
            raise SettingsError(
                f'No thing is named before {self.rest()!r}: say what to find, as in "the largest building east of the river".'
                if self.rest()
                else 'No thing is named: say what to find, for example "the largest building".'
            )
        return thing

    def condition_comes(self, pick: Pick | None) -> bool:
        start = self.at
        self.joint()
        try:
            return self.condition(0, pick, only_look=True) is not None
        finally:
            self.at = start

    def check(self, word: str) -> None:
        """Words that mean a relation and are none of those understood."""
        following = self.low(1)
        for unknown in NOT_UNDERSTOOD:
            parts = unknown.split()
            if self.at and all(self.low(k) == part for k, part in enumerate(parts)) and self.low(len(parts)):
                raise _unknown(unknown)
        near = _like(word, {**SIDES, **COMPASS}) if following == "of" else ""
        near = near or (_like(word, ("nearest", "closest", "farthest")) if following in ("to", "from") else "")
        if near:
            raise _unknown(word, near)

    # ------------------------------------------------------------------------------------------------------ conditions

    def condition(self, depth: int, pick: Pick | None, *, only_look: bool = False) -> Condition | Pick | None:
        """The condition that comes; None where none does. `only_look` reads no further than needed to tell."""

        def other() -> Phrase | None:
            if only_look:
                return Phrase("?")
            if self.at >= len(self.tokens):
                raise SettingsError(f"The text ends after {self.tokens[-1][0]!r}: of what? {understood()}")
            return self.phrase(depth + 1)

        if side := self.side():
            return Condition("side", side, to=other())
        if place := self.place():
            return Condition("place", place)
        if (self.low() in ("nearest", "closest") and self.low(1) == "to") or (
            self.low() in ("farthest", "furthest") and self.low(1) == "from"
        ):
            most = self.low() in ("farthest", "furthest")
            self.at += 2
            if pick is not None and pick.by not in ("score", "distance") and not only_look:
                raise SettingsError(
                    f"Two picks in one phrase ({pick.by} and distance): ask for one of them, or for two things."
                )
            return Pick("distance", most, pick.count if pick else 1, pick.first if pick else 1, other())
        if (
            pick is not None
            and pick.by == "distance"
            and pick.to is None
            and self.takes_one(("from",) if pick.most else ("to",))
        ):
            return Pick("distance", pick.most, pick.count, pick.first, other())
        if self.low() == "within" and (amount := self.measure(1, UNITS)) and self.low(amount[2] + 1) in ("of", "from"):
            self.at += amount[2] + 2
            return Condition("within", amount=amount[0], unit=amount[1], to=other())
        if self.takes("touching") or self.takes("inside") or self.takes("inside", "of"):
            return Condition(self.low(-1), to=other())
        if self.low() in ("larger", "bigger", "smaller") and self.low(1) == "than":
            kind = "smaller" if self.low() == "smaller" else "larger"
            self.at += 2
            if area := self.measure(0, UNITS_OF_AREA):
                self.at += area[2]
                return Condition(kind, amount=area[0], unit=area[1])
            return Condition(kind, to=other())
        return None

    def side(self) -> str:
        """ "east of", "to the east of", "on the left side of": the side, with the "of" stepped over."""
        start = self.at
        if self.takes_one(("to", "on", "in", "at")):
            self.takes("the")
        word = self.takes_one(COMPASS) or self.takes_one(("left", "right", "above", "below"))
        self.takes_one(("side", "hand"))
        alone = word in ("above", "below") and self.at == start + 1
        if word and (alone or self.takes("of")) and not (self.low() == "the" and self.low(1) in PLACE_TAILS):
            return COMPASS.get(word) or SIDES[word]
        self.at = start
        return ""

    def place(self) -> str:
        """ "in the north", "in the upper left corner of the image": which part of the picture."""
        start = self.at
        if self.takes_one(("in", "on", "at")) and self.takes("the"):
            words = [self.low(0), f"{self.low(0)} {self.low(1)}"]
            for k in (1, 0):
                if words[k] in PLACES:
                    self.at += k + 1
                    self.takes_one(("part", "half", "corner", "side", "quarter", "third"))
                    if self.takes("of", "the"):
                        if self.takes_one(PLACE_TAILS):
                            return PLACES[words[k]]
                        break
                    return PLACES[words[k]]
        self.at = start
        return ""

    def measure(self, ahead: int, units: dict[str, float]) -> tuple[float, str, int] | None:
        """(amount, unit, tokens) of "50 m" or "50m"."""
        written = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(\D*)", self.low(ahead))
        if written is None:
            if re.match(r"[-+.]?\d", self.low(ahead)):
                raise SettingsError(f"{self.low(ahead)[:20]!r}: expected a number such as 50 or 2.5, with a unit.")
            return None
        unit, used = (written[2], 1) if written[2] else (self.low(ahead + 1), 2)
        if used == 2 and units is UNITS_OF_AREA and unit in ("square", "sq"):
            unit, used = f"square {self.low(ahead + 2)}", 3
        if unit not in units:
            raise SettingsError(f"{written[1]} {unit or 'of what'}: expected a unit, one of {', '.join(units)}.")
        return float(written[1]), unit, used


def _like(word: str, known: object) -> str:
    """The known word that this one is a slip of the pen of; "" if there is none."""
    if len(word) < 4 or word in known:  # type: ignore[operator]
        return ""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.86)  # type: ignore[call-overload]
    return near[0] if near else ""


def _unknown(word: str, near: str = "") -> SettingsError:
    hint = f" Did you mean {near!r}?" if near else ""
    return SettingsError(
        f"{word!r} is a relation that is not understood.{hint} {understood()}"
        " To give the words to the locator as they are, put them in double quotes."
    )
