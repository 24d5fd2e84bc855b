"""Encoders by name. Networks have random weights made here; the real MobileNetV2 is used where it lies beside the data."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from terralabel import registry
from terralabel.contracts import FeatureExtractor
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import MissingExtraError, SettingsError, WeightsError
from terralabel.features.encoders import Encoder, feature_maps, hf, mobilenet_v2, timm
from terralabel.nets.backbones import Backbone


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERRALABEL_OFFLINE", "1")
    monkeypatch.setenv("TERRALABEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def noise(height: int, width: int, bands: int = 3, sensor: str = "optical") -> Tile:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Tile.from_array(pixels, sensor=sensor)


def quarters(height: int, width: int) -> Masks:
    index = np.arange(height)[:, None] * 2 // height * 2 + np.arange(width) * 2 // width
    dot = np.zeros((height, width), dtype=bool)
    dot[-1, -1] = True
    return Masks.from_arrays([*(index == k for k in range(4)), dot])


def linear_net(window: int | None, multiple: int = 4) -> Backbone:
    """A network whose only map is each 4 x 4 block's mean, so pooling over whole blocks is exact."""
    torch = pytest.importorskip("torch")

    def maps(x):
        assert window is None or x.shape[-2:] == (window, window)
        return [torch.nn.functional.avg_pool2d(x, 4)]

    return Backbone(maps, (0.5, 0.25, 0.125), (0.5, 0.5, 0.25), multiple, window, "cpu", "d" * 64)


def test_bands_by_the_documented_rule() -> None:
    assert noise(4, 4, 1).rgb("features appearance").shape == (4, 4, 3)
    np.testing.assert_array_equal(noise(4, 4, 1, "sar").rgb("features appearance")[..., 2], noise(4, 4, 1).pixels[..., 0])
    np.testing.assert_array_equal(noise(4, 4, 7).rgb("features appearance"), noise(4, 4, 7).pixels[..., :3])
    for bands in (2, 3, 13):
        with pytest.raises(SettingsError, match=f"SAR with {bands} bands"):
            noise(4, 4, bands, "sar").rgb("features appearance")
    with pytest.raises(SettingsError, match="2 bands"):
        noise(4, 4, 2).rgb("features appearance")


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("size", [(32, 48), (30, 41), (5, 3), (1, 1)])
def test_maps_lie_where_the_pixels_lie(window: int | None, size: tuple[int, int]) -> None:
    tile = noise(*size)
    ((values, covers),) = feature_maps(linear_net(window), tile)
    assert covers == (size[0] / 4, size[1] / 4) and values.shape[2] == 3
    normal = (tile.pixels / 255 - (0.5, 0.25, 0.125)) / (0.5, 0.5, 0.25)
    for row in range(size[0] // 4):
        for column in range(size[1] // 4):
            block = normal[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            np.testing.assert_allclose(values[row, column], block.mean(axis=(0, 1)), atol=1e-5)


def test_windows_and_the_whole_agree() -> None:
    tile = noise(45, 60)
    whole, windows = (feature_maps(linear_net(window), tile)[0] for window in (None, 12))
    assert whole[1] == windows[1]
    np.testing.assert_allclose(whole[0][:11, :15], windows[0][:11, :15], atol=1e-6)


def test_invalid_pixels_are_the_networks_mean() -> None:
    tile = noise(16, 16)
    valid = np.ones((16, 16), dtype=bool)
    valid[:8] = False
    ((values, _),) = feature_maps(linear_net(None), Tile.from_array(tile.pixels, valid))
    assert not values[:2].any() and values[2:].any()


def random_mobilenet(path: Path) -> Path:
    torch = pytest.importorskip("torch")
    from terralabel.nets.mobilenet import MobileNetV2

    torch.manual_seed(0)
    np.savez(path, **{key: value.numpy() for key, value in MobileNetV2().state_dict().items()})
    return path


def test_mobilenet_keeps_the_contract(tmp_path: Path) -> None:
    path = random_mobilenet(tmp_path / "m.npz")
    extractor = registry.create("features", f"mobilenet_v2:{path}")
    assert isinstance(extractor, FeatureExtractor) and extractor.name == "mobilenet_v2"
    tile, masks = noise(70, 50), quarters(70, 50)
    vectors = extractor.extract(tile, masks)
    assert vectors.shape == (5, 24 + 32 + 96 + 320) and vectors.dtype == np.float32
    for tap in np.split(vectors, [24, 56, 152], axis=1):
        np.testing.assert_allclose(np.linalg.norm(tap, axis=1), 1, rtol=1e-5)
    copied = pickle.loads(pickle.dumps(extractor))
    np.testing.assert_array_equal(copied.extract(tile, masks), vectors)
    assert len(pickle.dumps(extractor)) < 1000
    np.testing.assert_array_equal(extractor.extract(tile, masks.select(np.array([3, 1]))), vectors[[3, 1]])
    assert len(extractor.extract(tile, Masks.empty((70, 50)))) == 0
    assert extractor.extract(noise(1, 1, 1), quarters(1, 1).select(np.array([4]))).shape == (1, 472)


def test_mobilenet_is_the_published_one(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from terralabel.nets.mobilenet import Convolution, MobileNetV2

    net = MobileNetV2()
    assert [tuple(m.shape) for m in net(torch.zeros(1, 3, 64, 96))] == [
        (1, 24, 16, 24),
        (1, 32, 8, 12),
        (1, 96, 4, 6),
        (1, 320, 2, 3),
    ]
    # 2.22 M weights in the paper's encoder, with a bias for each folded batch norm
    assert sum(p.numel() for k, p in net.state_dict().items() if k.endswith("weight")) == 2_189_760
    one = Convolution(1, 1, 3, 2)
    with torch.no_grad():
        one.weight.fill_(1)
        one.bias.zero_()
        corner = one(torch.arange(16.0).reshape(1, 1, 4, 4))
    assert corner[0, 0].tolist() == [[45.0, 39.0], [66.0, 50.0]]  # padded right and below only


def test_the_version_follows_the_weights_not_the_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = random_mobilenet(tmp_path / "m.npz")
    first = mobilenet_v2(str(path)).version
    state = {key: torch.from_numpy(value) for key, value in np.load(path).items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "same.pth")
    assert mobilenet_v2(str(tmp_path / "same.pth")).version == first
    state["features.3.conv.2.bias"][0] += 1
    torch.save(state, tmp_path / "other.pth")
    assert mobilenet_v2(str(tmp_path / "other.pth")).version != first


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    np.savez(tmp_path / "w.npz", **{"layer1.0.conv1.weight": np.zeros((3, 4), np.float32)})
    with pytest.raises(WeightsError, match=r"another architecture: missing features\.0\.0\.weight, .* unknown layer1"):
        mobilenet_v2(str(tmp_path / "w.npz")).extract(noise(8, 8), quarters(8, 8))
    (tmp_path / "w.pth").write_text("<html>")
    with pytest.raises(WeightsError, match="web page"):
        mobilenet_v2(str(tmp_path / "w.pth")).extract(noise(8, 8), quarters(8, 8))
    with pytest.raises(WeightsError, match="models pull mobilenet_v2 --file"):
        mobilenet_v2().extract(noise(8, 8), quarters(8, 8))


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    import sys

    real = builtins.__import__
    for name in [m for m in sys.modules if m.split(".")[0] in ("torch", "timm") or m == "terralabel.nets.mobilenet"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(builtins, "__import__", real)
    for extractor in (Encoder("mobilenet_v2", "x.npz", "cpu"), Encoder("timm", "resnet18")):
        with pytest.raises(MissingExtraError, match=r"pip install 'terralabel\[torch\]'"):
            _ = extractor.version


@pytest.mark.parametrize(
    ("model", "taps", "window"),
    [
        ("resnet18", [64, 128, 256, 512], None),
        ("vit_tiny_patch16_224", [192], 224),
        ("convnext_atto", [40, 80, 160, 320], None),
    ],
)
def test_timm_models_from_a_file(tmp_path: Path, model: str, taps: list[int], window: int | None) -> None:
    torch, library = pytest.importorskip("torch"), pytest.importorskip("timm")
    torch.manual_seed(0)
    net = library.create_model(model, pretrained=False)
    torch.save({"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, tmp_path / "w.pth")
    extractor = timm(f"{model}@{tmp_path / 'w.pth'}")
    tile, masks = noise(240, 100), quarters(240, 100)
    vectors = extractor.extract(tile, masks)
    assert vectors.shape == (5, sum(taps)) and np.isfinite(vectors).all()
    assert extractor._loaded.window == window and extractor.name == f"timm:{model}"
    # the first window of the map is what the library itself gives for it
    side = 224 if window else 96
    part = Tile.from_array(np.ascontiguousarray(noise(224, 224).pixels[:side, :side]))
    ((values, _), *_) = feature_maps(extractor._loaded, part)
    mean, std = (np.array(net.pretrained_cfg[key], dtype=np.float32) for key in ("mean", "std"))
    x = torch.from_numpy(((part.pixels / np.float32(255) - mean) / std).transpose(2, 0, 1)[None].astype(np.float32))
    with torch.inference_mode():
        theirs = net.eval().forward_intermediates(x, indices=None, intermediates_only=True)
    theirs = next(m for m in theirs[::-1] if m.shape[1:] == values.transpose(2, 0, 1).shape)
    if window is None:  # the last layer of a transformer also passes its final norm
        np.testing.assert_allclose(values, theirs[0].permute(1, 2, 0).numpy(), atol=1e-4)


def test_timm_errors_say_the_way_out(tmp_path: Path) -> None:
    torch, library = pytest.importorskip("torch"), pytest.importorskip("timm")
    with pytest.raises(SettingsError, match="timm:resnet1800"):
        _ = timm("resnet1800").version
    with pytest.raises(WeightsError, match=r"model.safetensors of timm/resnet18\.\w+ .*put it at .*or give timm:resnet18@FILE"):
        _ = timm("resnet18").version
    torch.save(library.create_model("resnet34", pretrained=False).state_dict(), tmp_path / "34.pth")
    with pytest.raises(
        WeightsError, match=r"as timm:resnet50: the weights are of another architecture: missing layer1\.0\.conv3"
    ):
        _ = timm(f"resnet50@{tmp_path / '34.pth'}").version


def hf_folder(folder: Path, kind: str) -> Path:
    pytest.importorskip("torch").manual_seed(0)
    library = pytest.importorskip("transformers")
    small = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "patch_size": 8,
        "image_size": 32,
    }
    models = {
        "dinov2": lambda: library.Dinov2Model(
            library.Dinov2Config(**{k: v for k, v in small.items() if k != "intermediate_size"})
        ),
        "vit": lambda: library.ViTModel(library.ViTConfig(**small)),
        "swin": lambda: library.SwinModel(
            library.SwinConfig(image_size=64, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
        ),
        "dinov3": lambda: library.DINOv3ViTModel(library.DINOv3ViTConfig(**small)),
        "resnet": lambda: library.ResNetModel(
            library.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        ),
    }
    models[kind]().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "columns"), [("dinov2", 24), ("dinov3", 24), ("vit", 24), ("swin", 8 + 16), ("resnet", 8 + 16)]
)
def test_transformers_from_a_folder(tmp_path: Path, kind: str, columns: int) -> None:
    extractor = hf(str(hf_folder(tmp_path / kind, kind)))
    vectors = extractor.extract(noise(50, 70), quarters(50, 70))
    assert vectors.shape == (5, columns) and np.isfinite(vectors).all() and len(np.unique(vectors[:, 0])) > 3
    assert extractor._loaded.window == {"vit": 32, "swin": 64}.get(kind)
    assert extractor.name == f"hf:{kind}"


def test_tokens_lie_where_their_patches_lie(tmp_path: Path) -> None:
    """Without attention a token knows its own patch only, so a changed patch must change that cell of the map alone."""
    library = pytest.importorskip("transformers")
    pytest.importorskip("torch").manual_seed(0)
    config = library.ViTConfig(hidden_size=16, num_hidden_layers=0, num_attention_heads=2, patch_size=8, image_size=32)
    library.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "net")
    net = hf(str(tmp_path / "net"))._loaded
    pixels = noise(64, 96).pixels
    changed = pixels.copy()
    changed[8 * 5 : 8 * 6, 8 * 2 : 8 * 3] ^= 255  # row 5, column 2: in the fourth of six windows
    ((one, _),), ((other, _),) = (feature_maps(net, Tile.from_array(p)) for p in (pixels, changed))
    assert one.shape == (8, 12, 16)
    assert np.argwhere(np.abs(one - other).max(axis=2) > 1e-6).tolist() == [[5, 2]]


def test_transformers_normalisation_and_errors(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "net", "dinov2")
    assert hf(str(folder))._loaded.mean == (0.485, 0.456, 0.406)
    (tmp_path / "again").mkdir()
    for file in folder.iterdir():
        (tmp_path / "again" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "again" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.1, 0.2, 0.3]}'
    )
    assert hf(str(tmp_path / "again"))._loaded.std == (0.1, 0.2, 0.3)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no model\.safetensors in this folder"):
        _ = Encoder("hf", str(folder), "cpu").version
    with pytest.raises(
        WeightsError, match=r"config\.json of facebook/dinov2-small is not on this machine \(offline\).*put it at"
    ):
        _ = hf("facebook/dinov2-small").version


@pytest.fixture
def imagenet(data_dir: Path) -> Path:
    pytest.importorskip("torch")
    file = data_dir.parent / "weights" / "mobilenet_v2_imagenet.npz"
    if not file.is_file():
        pytest.skip("needs the ImageNet weights beside the data")
    return file


@pytest.mark.data
def test_the_real_mobilenet_knows_a_cat_and_a_cup(imagenet: Path) -> None:
    """The whole network, with the classifier its file also holds, on pictures that come with scikit-image."""
    import cv2
    import torch
    from skimage import data

    from terralabel.nets.checkpoints import read_state
    from terralabel.nets.mobilenet import load_mobilenet_v2

    net, state = load_mobilenet_v2(imagenet), read_state(imagenet)
    head = torch.as_tensor(state["classifier.1.weight"]).float().reshape(1001, 1280)
    for picture, classes in ((data.chelsea(), {281, 282, 285}), (data.coffee(), {967})):  # tabby, tiger, Egyptian cat; espresso
        side = min(picture.shape[:2])
        left = (picture.shape[1] - side) // 2
        small = cv2.resize(picture[:side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
        with torch.inference_mode():
            last = net.features(torch.from_numpy(small / np.float32(127.5) - 1).permute(2, 0, 1)[None])
            scores = last.mean((2, 3)) @ head.T + torch.as_tensor(state["classifier.1.bias"])
        assert int(scores.argmax()) - 1 in classes  # class 0 of the file is "nothing"


@pytest.mark.data
def test_the_real_mobilenet_tells_water_from_houses(data_dir: Path, imagenet: Path) -> None:
    """Real ImageNet weights through the door: features of one land cover are nearer to one another than to another's."""
    import cv2

    extractor = mobilenet_v2(str(imagenet))
    vectors = []
    for folder in ("lakes", "oam-buildings"):
        files = sorted((data_dir / folder / "images").iterdir())[:6]
        for file in files:
            pixels = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)[:256, :256]
            tile = Tile.from_array(np.ascontiguousarray(pixels))
            vectors.append(extractor.extract(tile, Masks.from_arrays([np.ones(tile.size, dtype=bool)]))[0])
    similar = np.stack(vectors) @ np.stack(vectors).T
    within = (similar[:6, :6].sum() - np.trace(similar[:6, :6]) + similar[6:, 6:].sum() - np.trace(similar[6:, 6:])) / 60
    assert within > similar[:6, 6:].mean() + 0.1
