"""Detectors from folders of transformers and files of torchvision: random weights in the official formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from terralabel.errors import SettingsError, WeightsError  # noqa: E402
from terralabel.nets.detectors import load_detector  # noqa: E402


@pytest.fixture(scope="session")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny YOLOS with random weights, as `save_pretrained` writes it."""
    return save_yolos(tmp_path_factory.mktemp("yolos"))


def save_yolos(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=6,
        id2label={0: "house", 1: "car"},
    )
    transformers.YolosForObjectDetection(config).save_pretrained(folder, safe_serialization=True)
    transformers.YolosImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def picture(height: int = 96, width: int = 160) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_boxes_are_those_of_transformers(yolos: Path) -> None:
    detector = load_detector(str(yolos), "cpu")
    assert dict(detector.classes) == {0: "house", 1: "car"}
    found = detector.detect(picture())
    assert (found.xyxy.dtype, found.score.dtype, found.label.dtype) == (np.float32, np.float32, np.int64)
    net = transformers.YolosForObjectDetection.from_pretrained(yolos).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    shown = torch.from_numpy(picture()).permute(2, 0, 1)[None].float()
    shown = torch.nn.functional.interpolate(shown, (64, 64), mode="bilinear", antialias=True, align_corners=False).round()
    with torch.no_grad():
        answer = net(pixel_values=((shown[0] / 255 - mean) / std)[None])
    cx, cy, w, h = answer.pred_boxes[0].T
    wide = torch.tensor([160.0, 96, 160, 96])
    expected = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1) * wide
    assert len(found.xyxy) == 6
    assert np.allclose(found.xyxy, expected.numpy(), atol=0.5)
    assert np.allclose(found.score, answer.logits[0].softmax(-1)[:, :-1].max(-1).values.numpy(), atol=5e-3)


def test_folders_that_are_none(yolos: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such folder"):
        load_detector(str(tmp_path / "none"))
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_detector(str(tmp_path))
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((yolos / name).read_text())
    with pytest.raises(WeightsError, match="no detector of transformers"):
        load_detector(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes((yolos / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load_detector(str(tmp_path))


def test_weights_of_another_size_are_refused(yolos: Path, tmp_path: Path) -> None:
    for path in yolos.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config: dict[str, Any] = json.loads((yolos / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(WeightsError, match=r"another architecture: missing or of another size vit\."):
        load_detector(str(tmp_path))


def test_torchvision_file(tmp_path: Path) -> None:
    detection = pytest.importorskip("torchvision").models.detection
    torch.manual_seed(0)
    net = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    detector = load_detector(f"torchvision:fasterrcnn_mobilenet_v3_large_320_fpn:{tmp_path / 'net.pth'}", "cpu")
    assert dict(detector.classes) == {1: "class 1", 2: "class 2"}
    found = detector.detect(picture())
    with torch.no_grad():
        expected = net.eval()([torch.from_numpy(picture()).permute(2, 0, 1).float() / 255])[0]
    assert np.allclose(found.xyxy, expected["boxes"].numpy())
    assert (found.label == expected["labels"].numpy()).all()
    with pytest.raises(SettingsError, match="one of fasterrcnn_"):
        load_detector("torchvision:retinanet_resnet50_fpn:x.pth")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError):
        load_detector(f"torchvision:fasterrcnn_mobilenet_v3_large_320_fpn:{tmp_path / 'other.pth'}")
