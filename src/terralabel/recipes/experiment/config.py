"""The file of an experiment: data sets, label sets, networks, starts, seeds; every mistake is named with its line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from terralabel.core.settings import coerce, from_mapping, setting
from terralabel.errors import SettingsError
from terralabel.nets.segmentation.catalogue import find
from terralabel.recipes.experiment.protocol import PROTOCOL, Annotation
from terralabel.recipes.settings import LabelSettings
from terralabel.recipes.training import LOADS
from terralabel.runs.config import Node, read_tree
from terralabel.train.annotation.settings import AnnotateSettings, ApplySettings
from terralabel.train.segmentation.settings import PredictSettings, TrainSettings

__all__ = ["SCRATCH", "DataSpec", "Experiment", "LabelSpec", "Start", "read_experiment", "rehearsal"]

#: The start of a network that was not pre-trained.
SCRATCH = "none"
#: Between the label sets of a mixed pre-training: "iSAID-PL then SAMRS-PL".
_THEN = " then "
_TINY_NETWORK = "timm:test_resnet:fcn"
_T = TypeVar("_T")


@dataclass(frozen=True)
class DataSpec:
    """One data set with drawn labels. `where` is its line in the file."""

    folder: str = setting("", "Folder, below --data.")
    painted: int = setting(0, "Paint so many scenes instead of reading a folder.", low=0, high=1000)
    side: int = setting(256, "Side of painted scenes, pixels.", low=32, high=4096)
    format: str = setting("auto", "Layout, a name of `datasets list`.")
    labels: str = setting("", "Folder or COCO file of labels that lies elsewhere, below --data.")
    classes: str = setting("", "Class file in place of the set's own, below --data.")
    ignore: tuple[int, ...] = setting((), "Stored values that mean no label (plain folders).")
    threshold: int | None = setting(None, "Grey masks: class 1 where at least this (plain folders).")
    train: tuple[str, ...] = setting(("train",), "Splits to learn from.")
    test: str = setting("val", "Split that networks are tested on; never fine-tuned on.")
    hold_out: float = setting(
        0.0, "Share of the images to test on, for sets without splits; the same for all seeds.", low=0.0, high=0.9
    )
    background: int | None = setting(None, "Id of the background class; it counts in the means, and the convention says so.")
    leave_out: tuple[str, ...] = setting((), "Classes that a second mean leaves out.")
    where: str = ""


@dataclass(frozen=True)
class LabelSpec:
    """One set of labels to pre-train on, made of the images of a data set. `settings` are those of `label`."""

    of: str = setting("", "Data set whose images are labelled.")
    by: str = setting(
        "label",
        "label: clusters of masks; detect-label: masks of boxes; own: the labels that the set has; run: a run that is there.",
        choices=("label", "detect-label", "own", "run"),
    )
    splits: tuple[str, ...] = setting((), "Splits to label; none: those that the data set learns from.")
    binary: bool = setting(False, "Two classes only: whether a pixel has a label.")
    boxes: str = setting("", "Boxes for detect-label, COCO or DOTA's text files, below --data.")
    run: str = setting("", "The run, or any labelled folder, below --data, for `by: run`.")
    settings: LabelSettings = field(default_factory=LabelSettings)
    where: str = ""


@dataclass(frozen=True)
class Start:
    """What a network begins with: the label sets it was pre-trained on one after the other, and what is loaded of it.

    `steps` 0 is the network's own number; `between`: what a second pre-training loads of the first. `learns`: one of D0 .. D4, the labels
    of the 30 % protocol that the network learns from, from scratch; "" for the drawn ones.
    """

    on: tuple[str, ...] = ()
    load: str = "overall"
    between: str = "overall"
    steps: int = 0
    learns: str = ""

    @property
    def name(self) -> str:
        """ "none", "iSAID-PL head", "iSAID-PL then SAMRS-PL backbone", "SAMRS-PL backbone, 320,000 steps", "D1"."""
        if not self.on:
            return self.learns or SCRATCH
        return f"{_THEN.join(self.on)} {self.load}" + (f", {self.steps:,} steps" if self.steps else "")


@dataclass(frozen=True)
class Experiment:
    """The grid: every network from every start, fine-tuned on every data set of `on` with every number of images and every seed.

    `published` is a CSV file with numbers to stand beside the measured ones; `shared_pretraining`: one for all seeds; `annotate`: how the
    rest is labelled for the starts D0 to D4.
    """

    name: str
    about: str
    data: Mapping[str, DataSpec]
    labels: Mapping[str, LabelSpec]
    networks: tuple[str, ...]
    starts: tuple[Start, ...]
    on: tuple[str, ...]
    images: tuple[int, ...]
    seeds: tuple[int, ...]
    pretrain: TrainSettings
    finetune: TrainSettings
    predict: PredictSettings
    shared_pretraining: bool = False
    annotate: Annotation = field(default_factory=Annotation)
    published: Path | None = None
    few: int = 0
    tiny_network: str = ""


#: Keys of the file, in the order of the pages.
_KEYS = (
    "about", "published", "data", "labels", "networks", "starts", "on", "images", "seeds", "shared_pretraining", "annotate",
    "pretrain", "finetune", "predict",
)  # fmt: skip
_START_KEYS = ("on", "load", "between", "steps")


def read_experiment(path: str | Path) -> Experiment:
    """The experiment in a YAML file.

    Raises `SettingsError` with file and line: unknown keys (with the nearest known one), names of data or label sets that are
    not in the file, networks that do not exist, values out of range.
    """
    path = Path(path)
    root = read_tree(path)
    top = _keys(root, "an experiment")
    _known(top, _KEYS)
    data = {name: _data(node) for name, node in _map(_needed(top, "data", root), "data sets").items()}
    labels = {name: _labels(node, data) for name, node in _map(top.get("labels", Node({}, root.where)), "label sets").items()}
    on = top.get("on")
    experiment = Experiment(
        name=path.stem,
        about=str(top["about"].plain) if "about" in top else "",
        data=data,
        labels=labels,
        networks=_list(_needed(top, "networks", root), _network),
        starts=_starts(top.get("starts", Node([Node(SCRATCH, root.where)], root.where)), labels),
        on=_list(on, lambda node: _one_of(node, data, "data set")) if on is not None else tuple(data),
        images=_list(top["images"], _count) if "images" in top else (0,),
        seeds=_list(top["seeds"], _count) if "seeds" in top else (0, 1, 2),
        pretrain=_settings(TrainSettings, top.get("pretrain"), without=("network",)),
        finetune=_settings(TrainSettings, top.get("finetune"), without=("network", "seed")),
        predict=_settings(PredictSettings, top.get("predict")),
        shared_pretraining=_flag(top["shared_pretraining"]) if "shared_pretraining" in top else False,
        annotate=_annotation(top["annotate"]) if "annotate" in top else Annotation(),
        published=path.parent / str(top["published"].plain) if "published" in top else None,
    )
    if experiment.published is not None and not experiment.published.is_file():
        raise SettingsError(
            f"{top['published'].where}published: {experiment.published} is no file; expected a CSV beside {path}."
        )
    return experiment


def rehearsal(experiment: Experiment) -> Experiment:
    """The same experiment in seconds: 2 steps of a tiny network, 4 images a split, masks tree.

    Only the first network and seed, and of the starts every chain of label sets once, the first with all its parts.
    """
    tiny: dict[str, Any] = {"steps": 2, "batch_size": 2, "crop": 64, "weights": "none", "threads": 1, "log_every": 1,
                            "precision": "fp32", "accumulate": 1, "validate_every": 0, "save_every": 2, "workers": 0}  # fmt: skip
    made: dict[str, Any] = {"masks": "tree", "features": "appearance", "clusters": "4", "workers": 0, "device": "cpu"}
    return replace(
        experiment,
        data={
            name: replace(spec, painted=min(spec.painted, 4), side=min(spec.side, 96)) for name, spec in experiment.data.items()
        },
        labels={name: replace(spec, settings=replace(spec.settings, **made)) for name, spec in experiment.labels.items()},
        networks=experiment.networks[:1],
        starts=_few_starts(experiment.starts),
        seeds=experiment.seeds[:1],
        images=tuple(sorted({min(count, 2) for count in experiment.images})),
        pretrain=replace(experiment.pretrain, **tiny),
        finetune=replace(experiment.finetune, **tiny),
        predict=replace(experiment.predict, tile_size=64, threads=1, precision="fp32"),
        annotate=_few_annotated(experiment.annotate),
        few=4,
        tiny_network=_TINY_NETWORK,
    )


def _few_annotated(annotation: Annotation) -> Annotation:
    fit = replace(
        annotation.fit, trunk="scratch", weights="auto", learns="auto", width=8, zoom=1.0, steps=2, batch_size=2, crop=64, folds=2,
        threads=1, precision="fp32", accumulate=1, workers=0, device="cpu",
    )  # fmt: skip
    apply = replace(annotation.apply, tile_size=64, overlap=-1, flips=False, threads=1, precision="fp32", device="cpu")
    return replace(annotation, fit=fit, apply=apply)


def _few_starts(starts: tuple[Start, ...]) -> tuple[Start, ...]:
    """Every chain once; the first chain with all that is loaded of it; and the labels of the protocol."""
    first = next((start for start in starts if start.on), Start())
    once = {(start.on, start.learns): start for start in reversed(starts)}.values()
    return tuple(s for s in starts if s in once or (s.on and (s.on, s.steps) == (first.on, first.steps)))


def _data(node: Node) -> DataSpec:
    spec = replace(_settings(DataSpec, node, without=("where",)), where=node.where)
    if bool(spec.folder) == bool(spec.painted):
        raise SettingsError(f"{node.where}a data set has either a folder, or `painted`, a number of scenes to paint.")
    if spec.painted and not spec.hold_out:
        raise SettingsError(f"{node.where}painted scenes have no splits: say hold_out, the share to test on, such as 0.3.")
    if not spec.hold_out and spec.test in spec.train:
        raise SettingsError(f"{node.where}test: split {spec.test!r} is one to learn from, too: test on another.")
    return spec


def _labels(node: Node, data: Mapping[str, DataSpec]) -> LabelSpec:
    """Keys are those of `LabelSpec`, and the settings of `label`."""
    given = _keys(node, "settings of a label set")
    own = {f.name for f in fields(LabelSpec)} - {"settings", "where"}
    _known(given, own | {f.name for f in fields(LabelSettings)})
    settings = _settings(LabelSettings, Node({k: v for k, v in given.items() if k not in own}, node.where))
    spec = _settings(LabelSpec, Node({k: v for k, v in given.items() if k in own}, node.where))
    if spec.by == "run":
        if not spec.run:
            raise SettingsError(f"{node.where}`by: run` needs `run`, the folder of one.")
    else:
        _one_of(given.get("of", Node("", node.where)), data, "data set")
    if spec.by == "detect-label" and not spec.boxes:
        raise SettingsError(f"{node.where}`by: detect-label` needs `boxes`, a COCO file or a folder of DOTA's text files.")
    return replace(spec, settings=settings, where=node.where)


def _starts(node: Node, labels: Mapping[str, LabelSpec]) -> tuple[Start, ...]:
    """Every item is "none", D0 to D4, or a map; in a map `on`, `load` and `steps` may be lists, and all combinations are meant."""
    out: list[Start] = []
    for item in node.value if isinstance(node.value, list) else [node]:
        if item.plain in PROTOCOL:
            out.append(Start(learns=str(item.plain)))
            continue
        if item.plain == SCRATCH or item.plain is None:
            out.append(Start())
            continue
        given = _map(item, "none, D0 to D4, or a start such as {on: PL, load: [overall, head]}")
        _known(given, _START_KEYS)
        between = _one_of(given.get("between", Node("overall", item.where)), LOADS, "part")
        chains = _list(_needed(given, "on", item), lambda n: tuple(_one_of(part, labels, "label set") for part in _chain(n)))
        loads = _list(given.get("load", Node("overall", item.where)), lambda n: _one_of(n, LOADS, "part"))
        steps = _list(given.get("steps", Node(0, item.where)), _count)
        out += [Start(chain, load, between, count) for chain in chains for load in loads for count in steps]
    twice = [start.name for start in out if out.count(start) > 1]
    if twice:
        raise SettingsError(f"{node.where}starts: {twice[0]!r} comes twice.")
    return tuple(out)


def _annotation(node: Node) -> Annotation:
    """`share`, and under `fit` and `apply` the settings of `annotate fit` and `annotate apply`; the grid decides seeds."""
    given = _keys(node, "share, fit and apply")
    _known(given, ("share", "fit", "apply"))
    share = coerce(Annotation, "share", given["share"].plain, given["share"].where) if "share" in given else Annotation().share
    fit = _settings(AnnotateSettings, given.get("fit"), without=("seed", "background"))
    apply = _settings(ApplySettings, given["apply"]) if "apply" in given else Annotation().apply
    return Annotation(share, fit, apply)


def _chain(node: Node) -> list[Node]:
    return [Node(part.strip(), node.where) for part in str(node.value).split(_THEN)]


def _network(node: Node) -> str:
    """A network of the catalogue by its own name, or smp:... and timm:... as they are."""
    name = str(node.value)
    if name.partition(":")[0] in ("smp", "timm"):
        return name
    try:
        return find(name).name
    except SettingsError as error:
        raise SettingsError(f"{node.where}networks: {error}") from error


def _count(node: Node) -> int:
    if isinstance(node.value, bool) or not isinstance(node.value, int) or node.value < 0:
        raise SettingsError(f"{node.where}expected a whole number, 0 or more; got {node.plain!r}.")
    return node.value


def _flag(node: Node) -> bool:
    if not isinstance(node.value, bool):
        raise SettingsError(f"{node.where}expected true or false; got {node.plain!r}.")
    return node.value


def _map(node: Node, what: str) -> dict[str, Node]:
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise SettingsError(f"{node.where}expected {what}, as `key: value` lines; got {str(node.plain)[:60]!r}.")
    return node.value


def _keys(node: Node, what: str) -> dict[str, Node]:
    """A map of settings; they may be written with - or _."""
    return {key.replace("-", "_"): value for key, value in _map(node, what).items()}


def _needed(given: Mapping[str, Node], key: str, parent: Node) -> Node:
    if key not in given or given[key].value in (None, [], {}):
        raise SettingsError(f"{given[key].where if key in given else parent.where}{key!r} is missing or empty.")
    return given[key]


def _list(node: Node, item: Callable[[Node], _T]) -> tuple[_T, ...]:
    """One value, or a list of different ones."""
    out = tuple(item(one) for one in (node.value if isinstance(node.value, list) else [node]))
    if not out or len(set(out)) != len(out):
        raise SettingsError(f"{node.where}expected one or more different values; got {node.plain!r}.")
    return out


def _known(given: Mapping[str, Node], known: Collection[str]) -> None:
    for name, node in given.items():
        if name not in known:
            raise SettingsError(f"{node.where}unknown setting {name!r}.{_hint(name, known)}")


def _one_of(node: Node, known: Iterable[str], what: str) -> str:
    names = list(known)
    if node.value not in names:
        raise SettingsError(f"{node.where}unknown {what} {str(node.plain)!r}.{_hint(str(node.plain), names)}")
    return str(node.value)


def _hint(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(names) or 'none'}."


def _settings(owner: type[_T], node: Node | None, without: Collection[str] = ()) -> _T:
    """A settings dataclass of a map, every value checked at its own line; `without` are fields that the grid decides."""
    given = _keys(node, "settings") if node is not None else {}
    known = {f.name for f in fields(owner) if "help" in f.metadata} - set(without)  # type: ignore[arg-type]
    _known(given, known)
    values = {name: coerce(owner, name, value.plain, value.where) for name, value in given.items()}
    try:
        return from_mapping(owner, values)
    except SettingsError as error:
        raise SettingsError(f"{node.where if node is not None else ''}{error}") from error
