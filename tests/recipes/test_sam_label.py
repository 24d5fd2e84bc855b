"""`label --masks` with SAM checkpoints: tiny random ones in their official formats, end to end. Their masks mean nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import weakref
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from terralabel.cli.main import run as terralabel  # noqa: E402
from terralabel.errors import RunError, SettingsError, WeightsError  # noqa: E402
from terralabel.imagery.painter import write_demo  # noqa: E402
from terralabel.masks import sam  # noqa: E402
from terralabel.nets.sam import loading, network  # noqa: E402
from terralabel.nets.sam.families import FAMILIES, tiny  # noqa: E402
from terralabel.nets.weights import CATALOGUE  # noqa: E402
from terralabel.recipes import backends, networks  # noqa: E402
from terralabel.recipes import label as label_recipe  # noqa: E402
from terralabel.recipes.backends import make_generator  # noqa: E402
from terralabel.recipes.label import estimate, label  # noqa: E402
from terralabel.recipes.run import Run, export_run, open_run, report_run  # noqa: E402
from terralabel.recipes.settings import LabelSettings, stored  # noqa: E402
from terralabel.runs.engine import InlineEngine  # noqa: E402
from terralabel.runs.parts import read_part  # noqa: E402
from tests.recipes.conftest import tree_hashes  # noqa: E402

#: So that random masks get past the filters.
LOOSE: dict[str, Any] = {"points_per_side": 5, "pred_iou_thresh": 0, "stability_score_thresh": 0, "tau": 1, "min_size": 1}
LOOSE["device"] = "cpu"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes; the second is not square and has a corner without data."""
    folder = tmp_path_factory.mktemp("sam-images")
    write_demo(folder, seed=4, scenes=2, size=112)
    path = folder / "images" / "scene_2.tif"
    with rasterio.open(path) as source:
        profile, pixels = source.profile, source.read()[:, :80]
    pixels[:, :30, :40] = 0
    with rasterio.open(path, "w", **{**profile, "height": 80}) as target:
        target.write(pixels)
    return folder / "images"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One official file per family."""
    folder = tmp_path_factory.mktemp("sam-weights")
    for family in FAMILIES:
        checkpoint = tiny(family)
        loading.write_official(loading.build(checkpoint), checkpoint, folder / f"{family}.pt")
    return {family: folder / f"{family}.pt" for family in FAMILIES}


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of weights, and no network."""
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TERRALABEL_OFFLINE", "1")
    return tmp_path / "cache"


def labelled(images: Path, out: Path, weights: Path | str, **settings: Any) -> Run:
    return label(images, out, masks=str(weights), **{"clusters": 3, "workers": 0, **LOOSE, **settings})


def said(*words: Any) -> int:
    with pytest.raises(SystemExit) as left:
        terralabel([str(word) for word in words])
    assert isinstance(left.value.code, int)
    return left.value.code


def features_of(run: Run) -> np.ndarray:
    parts = sorted((run.path / "parts" / "features").iterdir())
    columns = [np.asarray(read_part(path).columns["feature"]) for path in parts]
    return np.concatenate([c for c in columns if len(c)])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_from_images_to_exports_and_again(images: Path, checkpoints: dict[str, Path], tmp_path: Path, family: str) -> None:
    run = labelled(images, tmp_path / "run", checkpoints[family])
    assert run.failures == () and sum(run.tile_counts.values()) == 2 and run.tile_counts["ok"] >= 1
    vectors = features_of(run)
    assert vectors.shape[1] == 32 and np.isfinite(vectors).all()
    assert len(vectors) == sum(tile.masks for scene in run.scenes for tile in run.tiles(scene.key)) > 0
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["backends"]["features"].startswith("pooled") and manifest["backends"]["network"]
    with rasterio.open(run.label_path("scene_2")) as labels:
        assert labels.shape == (80, 112) and (labels.read(1)[:30, :40] == 255).all()
    if family == "sam":
        export_run(run, ["geotiff", "geopackage", "coco"], tmp_path / "out")
        assert json.loads(next((tmp_path / "out").rglob("*.json")).read_text())["annotations"]
        assert report_run(run).is_file()
    before = tree_hashes(run.path)
    stamps = {path: path.stat().st_mtime_ns for path in run.path.rglob("*.parquet")}
    assert labelled(images, run.path, checkpoints[family]).finished
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*.parquet")} == stamps
    after = tree_hashes(run.path)
    assert {k: v for k, v in after.items() if k != "report.html"} == {k: v for k, v in before.items() if k != "report.html"}


def test_what_a_person_sees(images: Path, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The command line: progress with masks per second, status, and a part lost and made again."""
    words = ["label", images, "--masks", checkpoints["sam"], "--clusters", 3, "--workers", 0, "--out", tmp_path / "run"]
    words += [word for name, value in LOOSE.items() for word in ("--" + name.replace("_", "-"), value)]
    assert said(*words) == 0
    assert "masks/s" in capsys.readouterr().err
    assert said("status", tmp_path / "run") == 0
    before = tree_hashes(tmp_path / "run")
    for stage in ("masks", "features"):
        next((tmp_path / "run" / "parts" / stage).iterdir()).unlink()
    assert said(*words) == 0
    assert tree_hashes(tmp_path / "run") == before
    history = open_run(tmp_path / "run").folder.history()
    assert history[0]["stages"]["points_per_batch"] >= 1 and history[0]["workers"] == 0


def test_batches_change_no_byte_and_modes_are_named(images: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    first = labelled(images, tmp_path / "64", checkpoints["sam"])
    labelled(images, tmp_path / "3", checkpoints["sam"], points_per_batch=3)
    assert tree_hashes(tmp_path / "3") == tree_hashes(tmp_path / "64")
    for settings, words in (
        ({"precision": "bf16"}, "precision: fp32 -> bf16"),
        ({"grid": "adaptive"}, "grid: full -> adaptive"),
    ):
        with pytest.raises(RunError, match=words):
            labelled(images, first.path, checkpoints["sam"], **settings)
        other = labelled(images, tmp_path / words[:4], checkpoints["sam"], **settings)
        assert other.finished and not other.failures
        names = [{p.name for p in (r.path / "parts" / "masks").iterdir()} for r in (first, other)]
        assert not names[0] & names[1]


def test_the_last_line_says_what_is_not_exact(
    images: Path, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = command(images, tmp_path / "run", checkpoints["sam"], 0)[1:]
    assert said(*words, "--grid", "adaptive", "--precision", "bf16") == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "grid adaptive, precision bf16: faster, not the same masks as the exact mode (docs/sam.md)"
    told = {"grid": "adaptive", "precision": "bf16"}
    weights = str(checkpoints["sam"])
    assert not networks.inexact_modes(LabelSettings(masks=weights)) and not networks.inexact_modes(
        LabelSettings(masks="tree", **told)
    )
    assert networks.inexact_modes(LabelSettings(masks="everything:tree", **told)).startswith("grid adaptive: faster")


def test_tiles_of_one_pass_change_no_byte(
    images: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tiles a pass, as on a GPU; a pass that fails is made again tile by tile, and costs only the guilty one."""
    sizes: list[int] = []
    encode_batch = sam.Sam.encode_batch

    def noted(self: sam.Sam, tiles: Any) -> Any:
        sizes.append(len(tiles))
        if fatal in [tile.key for tile in tiles]:
            raise ZeroDivisionError("this tile")
        return encode_batch(self, tiles)

    monkeypatch.setattr(sam.Sam, "encode_batch", noted)
    fatal = ""
    tiles = {"tile_size": 64, "overlap": 16}
    one = labelled(images, tmp_path / "one", checkpoints["sam"], **tiles)
    assert set(sizes) == {1}
    sizes.clear()
    two = labelled(images, tmp_path / "two", checkpoints["sam"], tiles_per_batch=2, **tiles)
    assert set(sizes) == {2} and len(sizes) >= 3
    assert tree_hashes(two.path) == tree_hashes(one.path)
    assert two.folder.history()[0]["stages"]["tiles_per_batch"] == 1  # on a CPU images go through one by one
    first, second = list(two.tiles("scene_1"))[:2]
    fatal = second.key
    sizes.clear()
    hurt = labelled(images, tmp_path / "hurt", checkpoints["sam"], tiles_per_batch=2, **tiles)
    assert [f.source for f in hurt.failures] == [fatal] and "this tile" in hurt.failures[0].reason
    assert hurt.tile_counts["ok"] == one.tile_counts["ok"] - 1 and sizes[:3] == [2, 1, 1]
    assert next(hurt.tiles("scene_1")).masks == first.masks > 0


def test_larger_shards_change_no_label(
    images: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: two passes of the encoder a shard. A run keeps the shards it has."""
    tiles = {"tile_size": 64, "overlap": 16}
    small = labelled(images, tmp_path / "small", checkpoints["sam"], **tiles)
    with monkeypatch.context() as gpu:
        gpu.setattr("terralabel.recipes.networks.on_device", lambda settings: "cuda")
        large = labelled(images, tmp_path / "large", checkpoints["sam"], tiles_per_batch=3, **tiles)
    assert [max(len(s.tiles) for _, s in run.layout.shards()) for run in (small, large)] == [2, 6]
    assert large.id == small.id
    for scene in small.scenes:
        assert large.label_path(scene.key).read_bytes() == small.label_path(scene.key).read_bytes()
    before = tree_hashes(large.path)
    assert labelled(images, large.path, checkpoints["sam"], **tiles).finished
    assert tree_hashes(large.path) == before


def test_weights_that_were_moved_are_the_same(images: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    there = tmp_path / "there" / "sam.pt"
    there.parent.mkdir()
    shutil.copyfile(checkpoints["sam"], there)
    run = labelled(images, tmp_path / "run", there)
    before = tree_hashes(run.path)
    there.unlink()
    made = next((run.path / "parts" / "masks").iterdir())
    made.unlink()  # so that something is left to be done with them
    assert labelled(images, run.path, checkpoints["sam"]).finished
    assert tree_hashes(run.path) == before and made.is_file()
    other = tmp_path / "other" / "sam.pt"
    other.parent.mkdir()
    loading.write_official(loading.build(tiny("sam"), 1), tiny("sam"), other)
    with pytest.raises(RunError, match="other settings"):
        labelled(images, run.path, other)
    assert tree_hashes(run.path) == before


def test_how_many_tiles_go_through_at_once(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terralabel.nets.backbones.choose_device", lambda device: "cuda" if device == "auto" else device)
    weights = str(checkpoints["sam"])
    settings = [
        {"masks": weights},
        {"masks": weights, "device": "cpu"},
        {"masks": "tree"},
        {"masks": "tree", "tiles_per_batch": 7},
    ]
    assert [networks.tiles_at_once(LabelSettings(**each)) for each in settings] == [4, 1, 1, 7]


def test_settings_that_came_later_leave_old_digests_alone() -> None:
    assert not {"compile", "grid", "precision", "threads"} & stored(LabelSettings()).keys()
    assert stored(LabelSettings(precision="bf16", compile=True)).items() >= {"precision": "bf16", "compile": True}.items()
    assert not {"points_per_batch", "tiles_per_batch"} & stored(LabelSettings(points_per_batch=3, tiles_per_batch=3)).keys()


# ------------------------------------------------------------------------------------------------------- names and auto


def put_in_cache(cache: Path, name: str, source: Path) -> None:
    cache.mkdir(exist_ok=True)
    (cache / next(m.file for m in CATALOGUE if m.name == name)).write_bytes(source.read_bytes())


def test_a_name_is_looked_up_in_the_cache(
    images: Path, checkpoints: dict[str, Path], tmp_path: Path, no_cache: Path, capsys: pytest.CaptureFixture
) -> None:
    assert said("label", images, "--out", tmp_path / "run", "--masks", "sam_vit_b") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "models pull sam_vit_b" in line and "sha256" in line and not (tmp_path / "run").exists()
    put_in_cache(no_cache, "sam_vit_b", checkpoints["sam"])
    by_name = labelled(images, tmp_path / "run", "sam_vit_b")
    assert by_name.finished and json.loads((tmp_path / "run" / "manifest.json").read_text())["settings"]["masks"] == "sam_vit_b"


def test_auto_is_what_ships_without_weights_and_keeps_to_what_it_was(
    images: Path, checkpoints: dict[str, Path], tmp_path: Path, no_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    nano, why = networks.settle(LabelSettings(), tmp_path / "run")
    assert nano.masks == "nano" and "comes with the package" in why
    with monkeypatch.context() as without:
        without.setattr(networks, "who_computes", lambda device: "")
        tree, why = networks.settle(LabelSettings(), tmp_path / "run")
        assert tree.masks == "tree" and "terralabel[nano]" in why
    put_in_cache(no_cache, "sam_vit_l", checkpoints["sam"])
    chosen, why = networks.settle(LabelSettings(device="cpu"), tmp_path / "run")
    assert chosen.masks == "sam_vit_l" and "in the cache" in why
    label(images, tmp_path / "run", masks="tree", clusters=3, workers=0)
    assert networks.settle(LabelSettings(), tmp_path / "run")[0].masks == "tree"
    before = tree_hashes(tmp_path / "run")
    label(images, tmp_path / "run", clusters=3, workers=0)
    assert tree_hashes(tmp_path / "run") == before


@pytest.mark.parametrize(
    "masks, source",
    [
        ("tree", None),
        ("everything:tree", None),
        ("fickle:kill", None),
        ("nonsense", None),
        ("sam_vit_b", "sam_vit_b"),
        ("everything:sam_vit_b", "sam_vit_b"),
        ("somewhere/x.pth", "somewhere/x.pth"),
        ("facebook/sam-vit-base", "facebook/sam-vit-base"),
    ],
)
def test_what_a_value_of_masks_names(masks: str, source: str | None) -> None:
    assert networks.weights_of(masks) == source


def test_compiling_is_for_gpus(images: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="compile=True is for CUDA devices, the model is on cpu"):
        labelled(images, tmp_path / "run", checkpoints["sam"], compile=True)
    assert not (tmp_path / "run").exists()


def test_an_unknown_sam_is_one_line(images: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"sam_vit_x.*models list"):
        label(images, tmp_path / "run", masks="sam_vit_x")
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------------------- bad weights


class _Planted:
    def __reduce__(self) -> Any:
        return (os.system, ("touch planted",))


def bad_weights(kind: str, whole: Path, path: Path) -> None:
    if kind == "html":
        path.write_text("<!DOCTYPE html><html>sign in</html>")
    elif kind == "truncated":
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "foreign":
        torch.save({"conv1.weight": torch.zeros(3, 3)}, path)
    elif kind == "incomplete":
        state = torch.load(whole, weights_only=True)
        torch.save({key: value for key, value in state.items() if "iou_prediction_head.layers.0" not in key}, path)
    elif kind == "flipped":
        data = bytearray(whole.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(bytes(data))
    elif kind == "malicious":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(_Planted()))
    elif kind == "text":
        path.write_text("weights, one would think\n")
    elif kind == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(120_000_000))
    elif kind == "folder":
        path.mkdir()
    elif kind == "folder-of-file":
        path.mkdir()
        shutil.copyfile(whole, path / "sam.pth")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "circle":
        path.symlink_to(path)
    elif kind == "npz":
        np.savez(path.with_suffix(".npz"), some=np.zeros(3, np.float32))


@pytest.mark.parametrize(
    "kind, words",
    [
        ("missing", "no such file"),
        ("html", "web page"),
        ("truncated", "truncated or damaged"),
        ("empty", "empty file"),
        ("foreign", "no SAM"),
        ("incomplete", "SAM"),
        ("flipped", "damaged"),
        ("malicious", "would run posix.system"),
        ("npz", "no SAM"),
        ("text", "not a weights file"),
        ("bomb", "no weights do that"),
        ("folder", "no config.json"),
        ("folder-of-file", "give the file itself"),
        ("pipe", "no such file"),
        ("circle", "no such file"),
        ("long-name", "File name too long"),
    ],
)
def test_bad_weights_are_one_line_before_any_image_is_read(
    images: Path, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch, kind: str, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("terralabel.recipes.ingest.ingest", lambda *a, **k: pytest.fail("an image was read"))
    path = tmp_path / "weights.pth"
    bad_weights(kind, checkpoints["sam"], path)
    path = {"npz": path.with_suffix(".npz"), "long-name": Path("x" * 300 + ".pth")}.get(kind, path)
    assert said("label", images, "--out", tmp_path / "run", "--masks", path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "run").exists() and not (tmp_path / "planted").exists()


def test_weights_that_change_are_another_network(images: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The digest of the weights is in the names of the parts: other weights under the same name never meet old masks."""
    checkpoint, path = tiny("sam"), tmp_path / "weights.pth"
    made = []
    for seed in (0, 1):
        loading.write_official(loading.build(checkpoint, seed), checkpoint, path)
        made.append(labelled(images, tmp_path / f"run{seed}", path))
    names = [{p.name for p in (run.path / "parts" / "masks").iterdir()} for run in made]
    assert not names[0] & names[1]
    settings = LabelSettings(masks=str(path), **LOOSE)
    assert make_generator(settings) is make_generator(settings)


def test_weights_replaced_while_a_run_goes_on_stop_it(
    images: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks of the new network are never filed under the old one's name; the same command then makes them afresh."""
    path, out = tmp_path / "weights.pth", tmp_path / "run"
    path.write_bytes(checkpoints["sam"].read_bytes())
    ingest = label_recipe.ingest.ingest

    def replacing(*given: Any, **more: Any) -> Any:
        loading.write_official(loading.build(tiny("sam"), seed=1), tiny("sam"), path)
        return ingest(*given, **more)

    monkeypatch.setattr(label_recipe.ingest, "ingest", replacing)
    with pytest.raises(WeightsError, match=r"were the weights replaced\? Run the same command again"):
        labelled(images, out, path)
    assert not list(out.glob("parts/masks/*.parquet"))
    monkeypatch.setattr(label_recipe.ingest, "ingest", ingest)
    assert labelled(images, out, path).finished


def test_this_process_lets_go_of_the_network_where_workers_have_their_own(
    images: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    ingest = label_recipe.ingest.ingest

    def noted(*given: Any, **more: Any) -> Any:
        held.append(sam._load.cache_info().currsize)
        return ingest(*given, **more)

    monkeypatch.setattr(label_recipe.ingest, "ingest", noted)
    monkeypatch.setattr(label_recipe, "engine_for", lambda workers: InlineEngine())
    backends._generator.cache_clear()  # made by other tests
    sam.release()
    loaded: weakref.WeakSet[Any] = weakref.WeakSet()
    make = network.make_network

    def remembered(*given: Any, **more: Any) -> Any:
        net = make(*given, **more)
        loaded.add(net)
        return net

    monkeypatch.setattr(network, "make_network", remembered)
    labelled(images, tmp_path / "inline", checkpoints["sam"])
    assert held == [1] and len(loaded) == 1
    labelled(images, tmp_path / "workers", checkpoints["sam"], workers=2)
    assert held == [1, 0]
    sam.release()
    assert not loaded
    assert tree_hashes(tmp_path / "workers") == tree_hashes(tmp_path / "inline")


# ------------------------------------------------------------------------------------------------------ the machine


def test_workers_are_as_many_as_memory_holds(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = LabelSettings(masks=str(checkpoints["sam"]), device="cpu")
    monkeypatch.setattr(LabelSettings, "worker_count", property(lambda self: 8 if self.workers < 0 else self.workers))
    need = networks.memory_of_worker(settings)
    monkeypatch.setattr(networks, "free_memory", lambda: 3 * need + 1)
    assert networks.worker_count(settings) == 3
    monkeypatch.setattr(networks, "free_memory", lambda: 0)
    assert networks.worker_count(settings) == 1
    monkeypatch.setattr(networks, "free_memory", lambda: 100 * need)
    assert networks.worker_count(settings) == 8
    assert networks.worker_count(LabelSettings(masks=settings.masks, device="cpu", threads=4)) == 2
    assert networks.worker_count(LabelSettings(masks=settings.masks, workers=5)) == 5
    assert networks.worker_count(LabelSettings(masks="tree")) == 8
    big = tmp_path / "big.pth"
    with big.open("wb") as file:
        file.truncate(2_500_000_000)
    assert networks.memory_of_worker(LabelSettings(masks=str(big))) > need + 2_500_000_000


def test_dry_run_says_what_where_and_how_long(images: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    text = estimate([images], LabelSettings(masks=str(checkpoints["sam"]), workers=0, **LOOSE), tmp_path / "run")
    assert "on cpu, fp32, full grid, 1 thread a worker" in text and "s a tile (measured on one)" in text
    assert "features pooled" in text and not (tmp_path / "run").exists()
    with pytest.raises(WeightsError, match="no such file"):
        estimate([images], LabelSettings(masks="gone.pth"), tmp_path / "run")


def command(images: Path, out: Path, weights: Path, workers: int) -> list[str]:
    words = ["label", images, "--masks", weights, "--clusters", 3, "--workers", workers, "--out", out, "--tile-size", 64]
    words += ["--overlap", 16, *(word for name, value in LOOSE.items() for word in ("--" + name.replace("_", "-"), value))]
    return [str(Path(sys.executable).with_name("terralabel")), *map(str, words)]


@pytest.mark.slow
def test_killed_while_it_makes_masks_and_with_any_number_of_workers(
    images: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """`kill -9` of two workers and their parent when some masks are there, gone on with in this process: the same bytes."""
    tiles = {"tile_size": 64, "overlap": 16}
    whole = labelled(images, tmp_path / "whole", checkpoints["sam"], **tiles)
    expected = tree_hashes(whole.path)
    total = len(list((whole.path / "parts" / "masks").iterdir()))
    assert total >= 3
    out = tmp_path / "struck"
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command(images, out, checkpoints["sam"], 2), start_new_session=True, stderr=log)
    while process.poll() is None and len(list(out.glob("parts/masks/[!.]*.parquet"))) < total - 1:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    log.close()
    assert process.wait() in (-9, 0), (tmp_path / "log").read_text()
    made = {path.name: path.stat().st_mtime_ns for path in out.glob("parts/masks/[!.]*.parquet")}
    assert len(made) >= total - 1
    labelled(images, out, checkpoints["sam"], **tiles)
    assert tree_hashes(out) == expected
    assert {name: (out / "parts" / "masks" / name).stat().st_mtime_ns for name in made} == made


@pytest.mark.slow
@pytest.mark.data
def test_on_real_images(checkpoints: dict[str, Path], data_dir: Path, tmp_path: Path) -> None:
    """`make proof-sam` on three sets of different kind."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "proof_sam.py"
    sets = ["lakes", "sar-oil", "geo-io/torchsat"]
    words = [sys.executable, script, "--data", data_dir, "--workers", "0", "--sets", *sets, "--json", tmp_path / "sam.json"]
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
    outcomes = json.loads((tmp_path / "sam.json").read_text())
    assert [o["name"] for o in outcomes] == ["geo-io/torchsat", "lakes", "sar-oil"] and all(o["masks"] for o in outcomes)
