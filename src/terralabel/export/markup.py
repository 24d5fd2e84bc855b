"""Small pieces of HTML, each safe whatever the text: what users name is text, never markup."""

from __future__ import annotations

import base64
import html
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["ImageBudget", "bar", "confusion_table", "flatten", "histogram", "number", "percent", "plain", "table", "text"]


#: Unicode classes of the invisible marks that turn the direction of writing.
_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def text(value: Any, limit: int = 300) -> str:
    """`plain` text of a value, escaped as HTML."""
    return html.escape(plain(value, limit), quote=True)


def plain(value: Any, limit: int = 300) -> str:
    """`value` as text of at most `limit` characters, in its own direction of writing, that any encoding of Unicode takes.

    Control characters, lone surrogates (names that are no UTF-8) and marks that turn the direction of what follows
    become visible replacements.
    """
    raw = str(value)
    cut = raw if len(raw) <= limit else raw[: limit - 1] + "…"
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_unprintable(c) else c for c in cut)


def _is_unprintable(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in _TURNS


def number(value: Any) -> str:
    """A number for people: thousands apart by thin spaces, floats with three decimals; anything else as text."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if not isinstance(value, (float, np.floating)):
        return text(value)
    real = float(value)
    if not math.isfinite(real):
        return "n/a"
    return f"{real:.3f}" if abs(real) < 1000 else number(round(real))


def percent(part: float, whole: float) -> str:
    """Share in percent, as HTML; "&lt;0.1 %" where it would round to nothing."""
    share = 100 * part / whole if whole else 0.0
    shown = "&lt;0.1" if 0 < share < 0.05 else f"{share:.1f}"
    return shown + "\N{NO-BREAK SPACE}%"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[int] = (), limit: int = 300) -> str:
    """A table of cells that are HTML already; columns in `numeric` are set right; rows past `limit` are only counted."""
    css = [' class="number"' if i in numeric else "" for i in range(len(head))]
    rows = list(rows)
    top = "".join(f"<th{c} scope=col>{text(h)}</th>" for c, h in zip(css, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{cell}</td>" for c, cell in zip(css, row, strict=True)) + "</tr>" for row in rows[:limit]
    )
    more = f"<tr><td colspan={len(head)} class=soft>and {number(len(rows) - limit)} more</td></tr>" if len(rows) > limit else ""
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}{more}</tbody></table></div>"


def flatten(value: Any, name: str = "", depth: int = 0) -> Iterable[tuple[str, str]]:
    """(dotted name, text) of every leaf of nested mappings and lists; short lists stay on one line."""
    if isinstance(value, Mapping) and value and depth < 8:
        for key in value:
            yield from flatten(value[key], f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(value, (list, tuple)) and depth < 8 and any(isinstance(item, (Mapping, list, tuple)) for item in value):
        for index, item in enumerate(value):
            yield from flatten(item, f"{name}[{index}]", depth + 1)
    elif isinstance(value, (list, tuple)):
        yield name, ", ".join(str(item) for item in value[:40]) + (" …" if len(value) > 40 else "") or "(none)"
    else:
        yield name, "(none)" if value is None or value == {} else str(value)


def bar(share: float) -> str:
    """A horizontal bar filled by `share` in [0, 1]."""
    filled = 100 * min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    return f'<span class=bar><i style="width:{filled:.1f}%"></i></span>'


def histogram(counts: np.ndarray, label: str) -> str:
    """Counts by powers of two as an inline SVG: one bar per bin between the first and the last that is not empty."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return ""
    first, last = int(filled[0]), int(filled[-1])
    width, height = 228, 74
    step = width / max(last - first + 1, 6)
    bars, marks = [], []
    for position, index in enumerate(range(first, last + 1)):
        tall = 0 if counts[index] == 0 else max(float(counts[index] / counts.max()) * height, 1.0)
        title = f"{number(2**index)} to {number(2 ** (index + 1) - 1)} px: {number(int(counts[index]))}"
        bars.append(
            f'<rect x="{position * step + 0.5:.1f}" y="{height - tall:.1f}" width="{step - 1:.1f}" height="{tall:.1f}" rx="1">'
            f"<title>{title}</title></rect>"
        )
        if position % max(math.ceil((last - first + 1) / 6), 1) == 0:
            at, anchor = (width, "end") if position * step > width - 22 else (position * step + 1, "start")
            marks.append(f'<text x="{at:.1f}" y="{height + 11}" text-anchor="{anchor}">{_short(2**index)}</text>')
    return (
        f'<svg class=histogram viewBox="0 0 {width} {height + 15}" role="img" aria-label="{text(label)}">'
        f'<line x1="0" x2="{width}" y1="{height}" y2="{height}"></line>{"".join(bars)}{"".join(marks)}</svg>'
    )


def _short(value: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.0f}{unit}"
    return str(value)


def confusion_table(matrix: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], limit: int = 40) -> str:
    """A confusion matrix, truth in rows, each cell coloured by its share of the row; the first `limit` of both."""
    head = "".join(f"<th scope=col>{text(name, 24)}</th>" for name in columns[:limit])
    body = []
    for name, values in zip(rows[:limit], matrix[:limit], strict=False):
        total = float(sum(values)) or 1.0
        cells = "".join(
            f'<td style="--share:{75 * v / total:.0f}" title="{number(v)} px">{percent(v, total)}</td>' for v in values[:limit]
        )
        body.append(f"<tr><th scope=row>{text(name, 24)}</th>{cells}</tr>")
    return (
        f"<div class=scroll><table class=confusion><thead><tr><th>truth \\ labels</th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


class ImageBudget:
    """Hands out data URIs until the page has `limit` bytes of them; after that, None: the page stays small."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.refused = 0
        #: why pictures could not be made at all, one line each
        self.unreadable: list[str] = []

    def uri(self, jpeg: bytes) -> str | None:
        """`jpeg` as a data URI, or None when it does not fit any more."""
        code = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
        if len(code) > self.left:
            self.refused += 1
            return None
        self.left -= len(code)
        return code
