"""The table of an experiment: mean and spread over seeds, IoU by class, what was published beside; and its picture.

Figures are per cent. The spread is the standard deviation over seeds (n - 1 in the denominator); one seed has none. A published
mean is shown as it was printed, and once more as the mean of the published classes by each of our conventions.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from terralabel.core.files import write_text
from terralabel.errors import SettingsError
from terralabel.evaluate.bars import Bar, Group, draw_bars
from terralabel.evaluate.curves import Chart, Line, draw_charts
from terralabel.recipes.experiment.config import SCRATCH, Experiment
from terralabel.recipes.experiment.ledger import Row

__all__ = ["Entry", "Figure", "Published", "read_published", "write_tables"]

_KEYS = ("data", "network", "start")
_MEANS = {"miou": "mIoU", "miou_without": "mIoU without", "macc": "mAcc"}


@dataclass(frozen=True)
class Figure:
    """A mean over seeds and its spread, per cent; NaN where there is none."""

    mean: float = math.nan
    spread: float = math.nan
    count: int = 0

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return ""
        return f"{self.mean:.2f}" + ("" if math.isnan(self.spread) else f" ± {self.spread:.2f}")


def _figure(shares: Iterable[float]) -> Figure:
    values = [100 * value for value in shares if not math.isnan(value)]
    if not values:
        return Figure()
    return Figure(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan, len(values))


@dataclass(frozen=True)
class Published:
    """One published row, per cent: means as printed, and IoU by class."""

    means: Mapping[str, float]
    iou: Mapping[str, float]

    def mean_of(self, names: Collection[str]) -> float:
        """The mean of the published classes `names`; NaN where one is missing."""
        values = [self.iou.get(name, math.nan) for name in names]
        return float(np.mean(values)) if values else math.nan


@dataclass(frozen=True)
class Entry:
    """One line of the table: the seeds of a network, a start and a number of images."""

    data: str
    network: str
    start: str
    images: int
    means: Mapping[str, Figure]
    iou: Mapping[str, Figure]
    gain: Figure
    left_out: str
    published: Published = field(default_factory=lambda: Published({}, {}))

    @property
    def seeds(self) -> int:
        """How many were measured."""
        return self.means["miou"].count

    def published_mean(self, without: bool) -> float:
        """The published mean over the classes that ours is over; NaN where not all of them were published."""
        left_out = self.left_out.split(", ") if without else []
        names = dict.fromkeys((*self.published.iou, *self.iou))
        return self.published.mean_of([name for name in names if name not in left_out])


def read_published(path: Path) -> dict[tuple[str, str, str], Published]:
    """(data set or "" for any, network, start) -> what was published. CSV; lines that begin with # are comments.

    Columns: network, start, data if it matters, mIoU and mAcc as printed, and the names of classes; all per cent.
    """
    with open(path, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(line for line in handle if not line.startswith("#")))
    out = {}
    for number, row in enumerate(rows, 1):
        try:
            numbers = {name: float(text) for name, text in row.items() if name not in _KEYS and text}
            key = (row.get("data") or "", row["network"], row["start"])
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(f"{path}: row {number} cannot be read ({type(error).__name__}: {error}).") from error
        means = {name: value for name, value in numbers.items() if name in ("mIoU", "mAcc")}
        out[key] = Published(means, {name: value for name, value in numbers.items() if name not in means})
    return out


def entries(experiment: Experiment, rows: Sequence[Row]) -> list[Entry]:
    """The lines of the table, in the order of the file."""
    known = read_published(experiment.published) if experiment.published else {}
    done = [row for row in rows if row.status == "done"]
    out = []
    for data, network, start, images in dict.fromkeys((r.data, r.network, r.start, r.images) for r in done):
        mine = [r for r in done if (r.data, r.network, r.start, r.images) == (data, network, start, images)]
        scratch = {r.seed: r for r in done if (r.data, r.network, r.start, r.images) == (data, network, SCRATCH, images)}
        gains = [r.measures["miou"] - scratch[r.seed].measures["miou"] for r in mine if r.seed in scratch and start != SCRATCH]
        means = {name: _figure(r.measures[name] for r in mine) for name in _MEANS}
        iou = {name: _figure(r.iou.get(name, math.nan) for r in mine) for name in dict.fromkeys(n for r in mine for n in r.iou)}
        published = known.get((data, network, start)) or known.get(("", network, start)) or Published({}, {})
        out.append(Entry(data, network, start, images, means, iou, _figure(gains), mine[0].left_out, published))
    return sorted(out, key=lambda e: (experiment.on.index(e.data), experiment.networks.index(e.network)))


def write_tables(experiment: Experiment, rows: Sequence[Row], out: Path) -> str:
    """table.md, table.csv, table.tex and chart.png of the cells that are done; returns the table of means as Markdown."""
    found = entries(experiment, rows)
    head, lines = _cells(experiment, found)
    markdown = _markdown(head, lines)
    write_text(out / "table.md", _page(experiment, found, rows, markdown))
    write_text(out / "table.csv", _csv(found))
    write_text(out / "table.tex", _latex(head, lines))
    if found:
        _picture(experiment, found, out / "chart.png")
    return markdown


def _cells(experiment: Experiment, found: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """(headings, lines) of the table of means; columns that would be empty are left out."""
    left_out = ", ".join(dict.fromkeys(e.left_out for e in found if e.left_out))
    columns: list[tuple[str, list[str]]] = [
        ("data", [e.data for e in found] if len(experiment.on) > 1 else []),
        ("network", [e.network for e in found]),
        ("start", [e.start for e in found]),
        ("images", [str(e.images or "all") for e in found] if experiment.images != (0,) else []),
        ("seeds", [str(e.seeds) for e in found]),
        ("mIoU", [str(e.means["miou"]) for e in found]),
        (f"mIoU without {left_out}", [str(e.means["miou_without"]) for e in found]),
        ("mAcc", [str(e.means["macc"]) for e in found]),
        ("gain over none", [_signed(e.gain) for e in found]),
        ("published mIoU, as printed", [_number(e.published.means.get("mIoU")) for e in found]),
        ("published, all classes", [_number(e.published_mean(False)) for e in found]),
        (f"published, without {left_out}", [_number(e.published_mean(True)) if e.left_out else "" for e in found]),
        ("published mAcc", [_number(e.published.means.get("mAcc")) for e in found]),
    ]
    kept = [(head, values) for head, values in columns if any(values)]
    return [head for head, _ in kept], [list(line) for line in zip(*(values for _, values in kept), strict=True)]


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def _signed(figure: Figure) -> str:
    return f"{'+' if figure.mean >= 0 else ''}{figure}" if figure.count else ""


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines] if lines else [["no cell is done yet"], ["---"]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _page(experiment: Experiment, found: Sequence[Entry], rows: Sequence[Row], means: str) -> str:
    """table.md."""
    failed = [row for row in rows if row.status == "failed"]
    lines = [f"# {experiment.name}", "", experiment.about, ""]
    if experiment.tiny_network:
        lines += [
            f"**A rehearsal (`--scale tiny`): every network is {experiment.tiny_network}, 2 steps. These figures mean nothing.**",
            "",
        ]
    lines += [
        means,
        "",
        "Per cent; mean ± standard deviation over seeds. Gain: mIoU over the same network from scratch, seed by seed.",
    ]
    lines += [f"Convention: {text}." for text in dict.fromkeys(row.convention for row in rows if row.convention)]
    for data in experiment.on:
        lines += _by_class([e for e in found if e.data == data], data)
    if failed:
        lines += ["", "## Failed", ""]
        lines += [f"- {r.data}, {r.network}, {r.start}, {r.images or 'all'} images, seed {r.seed}: {r.reason}" for r in failed]
    return "\n".join(lines) + "\n"


def _by_class(found: Sequence[Entry], data: str) -> list[str]:
    """IoU by class, a published line under each measured one."""
    classes = list(dict.fromkeys(name for e in found for name in e.iou))
    if not classes:
        return []
    lines = []
    for e in found:
        lines.append([e.network, e.start, str(e.images or "all"), *(str(e.iou.get(name, Figure())) for name in classes)])
        if e.published.iou:
            lines.append(["", "published", "", *(_number(e.published.iou.get(name)) for name in classes)])
    return ["", f"## IoU by class: {data}", "", _markdown(["network", "start", "images", *classes], lines)]


def _csv(found: Sequence[Entry]) -> str:
    """table.csv: every figure with its spread, and what was published."""
    classes = list(dict.fromkeys(name for e in found for name in e.iou))
    head = ["data", "network", "start", "images", "seeds", "gain", "gain spread", "left out"]
    for name in [*_MEANS.values(), *(f"IoU {name}" for name in classes)]:
        head += [name, f"{name} spread", f"published {name}"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for e in found:
        line: list[str | int] = [e.data, e.network, e.start, e.images, e.seeds, *_both(e.gain), e.left_out]
        line += [*_both(e.means["miou"]), _number(e.published.means.get("mIoU"))]
        line += [*_both(e.means["miou_without"]), _number(e.published_mean(True)) if e.left_out else ""]
        line += [*_both(e.means["macc"]), _number(e.published.means.get("mAcc"))]
        for name in classes:
            line += [*_both(e.iou.get(name, Figure())), _number(e.published.iou.get(name))]
        writer.writerow(line)
    return out.getvalue()


def _both(figure: Figure) -> list[str]:
    return [_number(figure.mean), _number(figure.spread)]


def _latex(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """table.tex: a tabular to be put into a page."""
    rows = [" & ".join(map(_escaped, row)) + r" \\" for row in [head, *lines]]
    body = [rf"\begin{{tabular}}{{{'l' * len(head)}}}", r"\hline", rows[0], r"\hline", *rows[1:], r"\hline", r"\end{tabular}"]
    return "\n".join(body) + "\n"


def _escaped(text: str) -> str:
    for sign in "&%#_":
        text = text.replace(sign, "\\" + sign)
    return text.replace("±", r"$\pm$")


def _picture(experiment: Experiment, found: Sequence[Entry], final: Path) -> None:
    """Curves over the number of images where there are several; else bars, with the published values across them."""
    title = f"{experiment.name}: mIoU, %" + (" (rehearsal)" if experiment.tiny_network else "")
    if len(experiment.images) > 1:
        panels = list(dict.fromkeys((e.data, e.network) for e in found))
        charts = [Chart(f"{title}: {d}, {n}", "images (0: all)", _lines(found, d, n)) for d, n in panels]
        draw_charts(final, charts, columns=min(2, len(charts)))
        return
    groups = []
    for data, network in dict.fromkeys((e.data, e.network) for e in found):
        mine = [e for e in found if (e.data, e.network) == (data, network)]
        groups.append(Group(network if len(experiment.on) == 1 else f"{data}, {network}", [_bar(e) for e in mine]))
    draw_bars(final, title, groups, mark="published" if any(e.published.means for e in found) else "")


def _bar(e: Entry) -> Bar:
    figure, mark = e.means["miou"], e.published_mean(False)
    spread = 0.0 if math.isnan(figure.spread) else figure.spread
    return Bar(e.start, figure.mean, spread, e.published.means.get("mIoU", math.nan) if math.isnan(mark) else mark)


def _lines(found: Sequence[Entry], data: str, network: str) -> list[Line]:
    out = []
    mine = [e for e in found if (e.data, e.network) == (data, network)]
    for start in dict.fromkeys(e.start for e in mine):
        its = sorted((e for e in mine if e.start == start), key=lambda e: e.images)
        spread = [0.0 if math.isnan(e.means["miou"].spread) else e.means["miou"].spread for e in its]
        out.append(Line(start, [(float(e.images), e.means["miou"].mean) for e in its], spread, dots=True))
    return out
