"""What clusters might be called: the words whose place is nearest to that of their typical objects, by a network for pictures and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from terralabel.core.scene import Scene
from terralabel.errors import RunError, SettingsError
from terralabel.export.cards import crop_window
from terralabel.export.specimens import Specimen
from terralabel.recipes.run import Run
from terralabel.recipes.survey import Survey
from terralabel.runs.folder import digest
from terralabel.runs.parts import read_part, write_part
from terralabel.runs.progress import Progress, Silent

if TYPE_CHECKING:
    from terralabel.nets.wording import WordEncoder

__all__ = ["PROMPT", "WORDS", "parsed_words", "word_shares"]

#: How a word is put to the network.
PROMPT = "an aerial photo of {word}"
#: Nouns for what lies on the ground, taken where a person names none.
WORDS = (
    "airplane", "airport runway", "bare soil", "beach", "bridge", "building", "burned area", "bush", "car", "cemetery",
    "clear water", "cloud", "cloud shadow", "construction site", "container", "crop field", "dirt road", "dry grass",
    "farm building", "forest", "glacier", "grass", "greenhouse", "hangar", "harbour", "highway", "house", "industrial hall",
    "lake", "landslide", "mangrove", "marsh", "meadow", "mine", "muddy water", "orchard", "parking lot", "pavement", "pier",
    "ploughed field", "pond", "power line", "railway", "rice field", "river", "road", "rock", "roof", "roundabout", "sand",
    "sea", "sea ice", "shadow", "ship", "snow", "solar panels", "sports field", "storage tank", "swimming pool",
    "tennis court", "train", "tree", "truck", "vineyard", "wetland", "wind turbine",
)  # fmt: skip
#: Typical objects of a cluster that are looked at; words that are told; bounds of what a person gives.
_CROPS, _TOLD, _MOST, _LONGEST = 6, 5, 1000, 100
#: Longer side of a crop as the network gets it, before its own resizing, pixels.
_SIDE = 256


def parsed_words(given: str) -> tuple[str, ...]:
    """Words of a person: "building, road, water", or a text file with one a line; `WORDS` for "".

    Raises `SettingsError` for fewer than two: the likeness to one alone says nothing.
    """
    if not given.strip():
        return WORDS
    text = given
    if given.strip().endswith(".txt"):
        try:
            text = Path(given.strip()).expanduser().read_text(encoding="utf-8").replace("\n", ",")
        except (OSError, ValueError) as error:
            raise SettingsError(f"--words {given}: cannot be read ({error}).") from error
    words = tuple(dict.fromkeys(" ".join(part.split()) for part in text.split(",") if part.strip()))
    if len(words) < 2 or len(words) > _MOST:
        raise SettingsError(f"--words: expected 2 to {_MOST} words, as in building,road,water; got {len(words)}.")
    long = next((word for word in words if len(word) > _LONGEST or not word.isprintable()), None)
    if long is not None:
        raise SettingsError(f"--words: expected words of at most {_LONGEST} printable characters; got {long[:40]!r}.")
    return words


def word_shares(
    run: Run, survey: Survey, encoder: WordEncoder, words: Sequence[str] = WORDS, progress: Progress | None = None
) -> dict[int, list[tuple[str, float]]]:
    """Cluster -> (word, share) of the likeliest words, best first; the shares of all words sum to 1.

    A share is the softmax, over the words, of the mean likeness of the cluster's most typical objects. Their places are kept in the run's
    cache: with other words, or a second time, no picture goes through the network.
    """
    clusters, places = _places(run, survey, encoder, progress or Silent())
    likeness = encoder.likeness(places, encoder.words([PROMPT.format(word=word) for word in words])).astype(np.float64)
    out = {}
    for cluster in np.unique(clusters).tolist():
        mean = likeness[clusters == cluster].mean(axis=0)
        share = np.exp(mean - mean.max())
        share /= share.sum()
        order = np.argsort(-share, kind="stable")[:_TOLD]
        out[int(cluster)] = [(words[k], float(share[k])) for k in order.tolist()]
    return out


def _places(run: Run, survey: Survey, encoder: WordEncoder, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """((n,) cluster, (n, d) float32 place) of the typical objects, from the cache where they are there."""
    shown = [(cluster, item) for cluster, card in sorted(survey.cards.items()) for item in card.typical[:_CROPS]]
    name = digest([encoder.sha256, [[c, i.scene, i.id, *i.bbox] for c, i in shown]])
    path = run.path / "review" / "cache" / f"places-{name}.parquet"
    if path.is_file():
        try:
            part = read_part(path).columns
            return np.asarray(part["cluster"]), np.asarray(part["place"])
        except RunError:
            path.unlink()  # a cache: damaged is as good as not there
    progress.start("look at objects", len(shown), "objects")
    scenes = {scene.key: scene for scene in run.scenes}
    found = []
    for _, item in shown:
        found.append(encoder.pictures([_picture(run, item, scenes)]))
        progress.advance()
    progress.finish()
    clusters = np.array([cluster for cluster, _ in shown], dtype=np.int64)
    places = np.concatenate(found) if found else np.zeros((0, 1), np.float32)
    for old in path.parent.glob("places-*.parquet"):
        old.unlink()
    write_part(path, {"cluster": clusters, "place": places}, {})
    return clusters, places


def _picture(run: Run, item: Specimen, scenes: Mapping[str, Scene]) -> np.ndarray:
    """An object with what lies about it, (h, w, 3) uint8 RGB."""
    return run.read_rgb(item.scene, crop_window(item, scenes[item.scene]), _SIDE)
