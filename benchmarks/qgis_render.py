"""Open what `terralabel export` wrote in a real QGIS, without a screen, and draw it as QGIS styles it by itself.

Run it with the Python that has QGIS's bindings (Debian: apt-get install qgis python3-qgis):

    QT_QPA_PLATFORM=offscreen /usr/bin/python3 benchmarks/qgis_render.py OUT.png FILE.tif FILE.gpkg:masks FILE.gpkg:tiles

Layers are drawn in the order given, the first at the bottom. No style is set here: colours come from the `.qml` beside a
raster and from `layer_styles` inside a GeoPackage. Prints the renderer of each layer and its legend, and fails when a layer
is invalid or QGIS found no style of ours.
"""

import argparse
import json
import sys

from qgis.core import (
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor


def open_layer(text):
    """A layer of "file.tif" or "file.gpkg:layer"."""
    if ".gpkg:" in text:
        path, name = text.rsplit(":", 1)
        return QgsVectorLayer(f"{path}|layername={name}", name, "ogr")
    if text.endswith((".parquet", ".geojson", ".gpkg")):
        return QgsVectorLayer(text, text, "ogr")
    return QgsRasterLayer(text, text, "gdal")


def describe(layer):
    """What QGIS made of a layer: renderer, legend labels, CRS, extent, number of features."""
    kind = "raster" if isinstance(layer, QgsRasterLayer) else "vector"
    renderer = layer.renderer()
    labels = [label for label, _ in renderer.legendSymbologyItems()] if kind == "raster" else []
    if kind == "vector" and renderer.type() == "categorizedSymbol":
        labels = [category.label() for category in renderer.categories()]
    form = ""
    if kind == "vector" and layer.fields().indexOf("class_id") >= 0:
        form = layer.editorWidgetSetup(layer.fields().indexOf("class_id")).type()
    return {
        "layer": layer.name(),
        "renderer": renderer.type(),
        "legend": labels,
        "form": form,
        "crs": layer.crs().authid(),
        "extent": layer.extent().toString(2),
        "features": layer.featureCount() if kind == "vector" else None,
    }


def render(layers, out, size, extent):
    """Draw the layers into a PNG; `extent` is (xmin, ymin, xmax, ymax) or None for all of the bottom layer."""
    settings = QgsMapSettings()
    settings.setLayers(list(reversed(layers)))
    settings.setDestinationCrs(layers[0].crs())
    settings.setBackgroundColor(QColor(255, 255, 255))
    settings.setOutputSize(QSize(*size))
    settings.setExtent(QgsRectangle(*extent) if extent else layers[0].extent())
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    errors = [f"{error.layerID}: {error.message}" for error in job.errors()]
    if errors:
        raise SystemExit("QGIS could not draw: " + "; ".join(errors))
    image = job.renderedImage()
    if not image.save(out):
        raise SystemExit(f"could not write {out}")


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("layers", nargs="+")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 600))
    parser.add_argument("--extent", type=float, nargs=4)
    parser.add_argument("--unstyled", action="store_true", help="do not fail on layers without a style (background images)")
    options = parser.parse_args()
    application = QgsApplication([], False)
    application.initQgis()
    layers = [open_layer(text) for text in options.layers]
    failed = []
    for text, layer in zip(options.layers, layers, strict=True):
        if not layer.isValid():
            sys.exit(f"QGIS cannot open {text}")
        facts = describe(layer)
        print(json.dumps(facts, ensure_ascii=False))
        if facts["renderer"] not in ("paletted", "categorizedSymbol"):
            failed.append(text)
    render(layers, options.out, options.size, options.extent)
    if failed and not options.unstyled:
        sys.exit(f"QGIS found no style for {', '.join(failed)}")


if __name__ == "__main__":
    main()
