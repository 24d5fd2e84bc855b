"""QGIS styles for label rasters and vector layers, so that what we write opens coloured and named.

Written by hand as XML that QGIS 3 reads; nothing of QGIS is needed to make it.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, tostring

from terralabel.core.classes import IGNORE, Classes

__all__ = ["class_style", "pam_categories", "raster_style", "status_style", "verdict_style"]

_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
#: Tile status -> fill colour.
_STATUS_COLORS = {"ok": "#33a02c", "empty": "#b2b2b2", "nodata": "#000000", "failed": "#e31a1c"}
#: Layer of judged labels -> colour.
_VERDICT_COLORS = {"accepted": "#33a02c", "review": "#ff9f00", "rejected": "#e31a1c"}


def raster_style(classes: Classes) -> str:
    """The `.qml` beside a label raster: a palette with class names; 255 stays transparent."""
    qgis = Element("qgis", version="3.22.0", styleCategories="AllStyleCategories", hasScaleBasedVisibilityFlag="0")
    pipe = SubElement(qgis, "pipe")
    renderer = SubElement(pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor="")
    SubElement(renderer, "rasterTransparency")
    palette = SubElement(renderer, "colorPalette")
    for entry in classes:
        SubElement(palette, "paletteEntry", value=str(entry.id), color=entry.color, alpha="255", label=_text(entry.name))
    SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    SubElement(pipe, "huesaturation", saturation="0", grayscaleMode="0")
    SubElement(pipe, "rasterresampler", maxOversampling="2")
    SubElement(qgis, "blendMode").text = "0"
    return _document(qgis)


def class_style(classes: Classes, *, opacity: float = 0.55, order: str = "") -> str:
    """QML for a polygon layer with the attribute `class_id`: a fill in the class's colour, 255 as a grey outline.

    Classes are chosen by name from a list when a feature is edited. `order` is an attribute by which features are drawn,
    largest value first.
    """
    rows = [(str(entry.id), entry.name, entry.color, opacity) for entry in classes]
    qgis = _categorized("class_id", "long", [*rows, (str(IGNORE), "no class", "#808080", 0.0)], order)
    _add_choice(qgis, "class_id", [(label, value) for value, label, _, _ in rows] + [("no class", str(IGNORE))])
    return _document(qgis)


def status_style() -> str:
    """QML for the layer of tiles: an outline by status, failed tiles filled."""
    rows = [(name, name, color, 0.4 if name == "failed" else 0.0) for name, color in _STATUS_COLORS.items()]
    return _document(_categorized("status", "string", rows))


def verdict_style(layer: str) -> str:
    """QML for one layer of judged labels, "accepted", "review" or "rejected": an outline, and a thin fill but for those accepted."""
    opacity = 0.0 if layer == "accepted" else 0.35
    return _document(_categorized("status", "string", [(layer, layer, _VERDICT_COLORS[layer], opacity)]))


def _categorized(attribute: str, value_type: str, rows: list[tuple[str, str, str, float]], order: str = "") -> Element:
    """A categorised renderer of (value, label, "#rrggbb", fill opacity 0..1) rows."""
    qgis = Element("qgis", version="3.22.0", styleCategories="Symbology|Forms")
    options = {"forceraster": "0", "symbollevels": "0", "enableorderby": str(int(bool(order)))}
    renderer = SubElement(qgis, "renderer-v2", {"type": "categorizedSymbol", "attr": attribute, **options})
    if order:
        clause = SubElement(SubElement(renderer, "orderby"), "orderByClause", asc="0", nullsFirst="0")
        clause.text = f'"{order}"'
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for index, (value, label, color, opacity) in enumerate(rows):
        SubElement(categories, "category", value=value, type=value_type, symbol=str(index), label=_text(label), render="true")
        symbol = SubElement(symbols, "symbol", type="fill", name=str(index), alpha="1", clip_to_extent="1", force_rhr="0")
        layer = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
        line = _rgba(color, 255)
        values = {
            "color": _rgba(color, round(255 * opacity)),
            "style": "solid",
            "outline_color": line,
            "outline_style": "solid",
            "outline_width": "0.26",
            "outline_width_unit": "MM",
            "joinstyle": "bevel",
        }
        option_map = SubElement(layer, "Option", type="Map")
        for key, option in values.items():
            SubElement(option_map, "Option", name=key, type="QString", value=option)
            SubElement(layer, "prop", k=key, v=option)  # QGIS before 3.24 reads these
    return qgis


def _add_choice(qgis: Element, attribute: str, choices: list[tuple[str, str]]) -> None:
    """Let the form offer (label, value) pairs for an attribute."""
    field = SubElement(SubElement(qgis, "fieldConfiguration"), "field", name=attribute, configurationFlags="None")
    widget = SubElement(field, "editWidget", type="ValueMap")
    options = SubElement(SubElement(widget, "config"), "Option", type="Map")
    listed = SubElement(options, "Option", name="map", type="List")
    for label, value in choices:
        SubElement(SubElement(listed, "Option", type="Map"), "Option", name=_text(label), type="QString", value=value)


def _document(qgis: Element) -> str:
    return _DOCTYPE + tostring(qgis, encoding="unicode") + "\n"


def pam_categories(classes: Classes) -> str:
    """GDAL's `.aux.xml` with the class names, which the TIFF itself has no place for."""
    root = Element("PAMDataset")
    names = SubElement(SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    known = {entry.id: entry.name for entry in classes}
    for index in range(max(known, default=-1) + 1):
        SubElement(names, "Category").text = _text(known.get(index, ""))
    return tostring(root, encoding="unicode") + "\n"


def _rgba(color: str, alpha: int) -> str:
    return ",".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5)) + f",{alpha}"


def _text(name: str) -> str:
    """A name without the control characters XML forbids."""
    return "".join(c if c >= " " and c not in "\ufffe\uffff" and not 0xD800 <= ord(c) < 0xE000 else "\ufffd" for c in name)
