"""The same files in a real QGIS, where one is installed (Debian: qgis python3-qgis): opened, drawn, edited, read back."""

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terralabel.core.classes import IGNORE
from terralabel.core.georeference import Georeference
from terralabel.export.rasters import GeoTiff
from terralabel.export.reading import read_corrections
from terralabel.export.vectors import GeoPackage

PYTHON = Path("/usr/bin/python3")
RENDER = Path(__file__).parents[2] / "benchmarks" / "qgis_render.py"
EDIT = """
import sys
from qgis.core import QgsApplication, QgsFeature, QgsGeometry, QgsVectorLayer
app = QgsApplication([], False)
app.initQgis()
layer = QgsVectorLayer(sys.argv[1] + "|layername=masks", "masks", "ogr")
fields = layer.fields()
field, ring, corner, blob = layer.getFeatures()
assert layer.startEditing()
layer.changeAttributeValue(field.id(), fields.indexOf("class_id"), 3)
layer.changeGeometry(ring.id(), ring.geometry().buffer(1, 4))
layer.deleteFeature(corner.id())
new = QgsFeature(fields)
new.setGeometry(QgsGeometry.fromWkt("MULTIPOLYGON(((500001 4999972, 500004 4999972, 500004 4999978, 500001 4999972)))"))
new["class_id"] = 0
assert layer.addFeature(new)
assert layer.commitChanges(), layer.commitErrors()
"""


def qgis(*arguments, folder):
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}
    done = subprocess.run(
        [str(PYTHON), *map(str, arguments)], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def installed():
    if (
        not PYTHON.exists()
        or subprocess.run([str(PYTHON), "-c", "import qgis.core"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs QGIS with its Python bindings")


def colors(path):
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB")).reshape(-1, 3)
    return Counter(map(tuple, pixels.tolist()))


@pytest.mark.slow
@pytest.mark.parametrize("placed", [True, False])
def test_qgis_draws_labels_in_their_colours_where_they_belong(painter, tmp_path, placed):
    scene = painter.scene() if placed else painter.scene(place=Georeference())
    run = painter.Run(tmp_path / "run").add(scene, painter.masks(), painter.class_ids)
    raster = GeoTiff().export(run, tmp_path)[0]
    (package,) = GeoPackage().export(run, tmp_path)
    told = qgis(RENDER, tmp_path / "r.png", raster, f"{package}:tiles", "--size", 80, 60, folder=tmp_path)
    layers = [json.loads(line) for line in told.splitlines()]
    assert [layer["renderer"] for layer in layers] == ["paletted", "categorizedSymbol"]
    assert layers[0]["legend"] == ["water <&>", "roof"]
    assert layers[0]["extent"] == layers[1]["extent"]
    qgis(RENDER, tmp_path / "r.png", raster, "--size", 80, 60, folder=tmp_path)
    found = colors(tmp_path / "r.png")
    assert found[31, 120, 180] == (run.labels["a"] == 0).sum()
    assert found[227, 26, 28] == (run.labels["a"] == 3).sum()
    assert found[255, 255, 255] == (run.labels["a"] == IGNORE).sum()
    told = qgis(RENDER, tmp_path / "v.png", f"{package}:masks", "--size", 80, 60, folder=tmp_path)
    assert json.loads(told)["form"] == "ValueMap"
    assert json.loads(told)["legend"] == ["water <&>", "roof", "no class"]


@pytest.mark.slow
def test_what_is_edited_in_qgis_comes_back(run, tmp_path):
    (package,) = GeoPackage().export(run, tmp_path / "out")
    edited = shutil.copyfile(package, tmp_path / "edited.gpkg")
    (tmp_path / "edit.py").write_text(EDIT)
    qgis(tmp_path / "edit.py", edited, folder=tmp_path)
    imported = read_corrections(edited, run.scenes, run.classes, run.objects, run_id=run.id)
    assert imported.counts() == {"class": 1, "deleted": 2, "drawn": 1, "shape": 1, "unchanged": 1, "rejected": 0}
