"""`masks nano` by onnxruntime, on the CPU with one thread.

The package holds three graphs without weights (`export` writes them, `graphs.json` lists what they take): the weights come from
the one safetensors file, so that the two cannot tell different things, and another network's file works as well.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from terralabel.errors import WeightsError
from terralabel.nets.checkpoints import compare_keys
from terralabel.nets.nano.runtime import Asked
from terralabel.nets.nano.sampling import cell_centres, mip_level, sample, sample_mips
from terralabel.nets.nano.shipped import read_weights

__all__ = ["GRAPHS", "OnnxRuntime"]

#: sha256 of every graph, and the weights it takes with their shapes.
GRAPHS = Path(__file__).with_name("graphs.json")
_STRIDE = 8


@dataclass(frozen=True)
class _Seen:
    """A picture `width` pixels wide, once encoded, channels last: see `network.Seen`, and `network.describe`."""

    deep: np.ndarray
    shallow: np.ndarray
    atlas: np.ndarray
    description: np.ndarray
    width: int


class OnnxRuntime:
    """See `runtime.Runtime`. Raises `WeightsError` for a file of weights or a graph that is not the expected one."""

    kind = "onnx"

    def __init__(self, weights: Path) -> None:
        state, self.digest = read_weights(weights)
        listed = json.loads(GRAPHS.read_text())
        wanted = {key: tuple(shape) for graph in listed.values() for key, shape in graph["weights"].items()}
        compare_keys(state, wanted, f"{weights} as the network of masks nano")
        self._encode, self._guess, self._decode = (
            _session(name, listed[name], state) for name in ("encode", "guess", "decode")
        )

    def encode(self, picture: np.ndarray) -> _Seen:
        """See `Runtime`."""
        found = self._encode.run(None, {"picture": np.ascontiguousarray(picture[None], np.float32)})
        deep, shallow, atlas, description = (values[0] for values in found)
        return _Seen(deep, shallow, atlas, description, picture.shape[1])

    def describe(self, seen: _Seen) -> np.ndarray:
        """See `Runtime`."""
        return seen.description

    def guess(self, seen: _Seen, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Runtime`."""
        xy = np.ascontiguousarray(xy, np.float32)
        vectors = sample(seen.deep, xy[:, 0:1] / _STRIDE, xy[:, 1:2] / _STRIDE).reshape(len(xy), seen.deep.shape[2])
        boxes, fits = self._guess.run(None, {"vectors": vectors, "xy": xy})
        return boxes, fits

    def decode(self, seen: _Seen, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
        """See `Runtime`."""
        grid, windows = asked.rough.shape[-1], np.asarray(asked.windows, np.float32)
        x, y = cell_centres(windows, grid)
        features = sample(seen.shallow, x / _STRIDE, y / _STRIDE)
        pixels = sample_mips(seen.atlas, seen.width, x, y, mip_level(windows, grid))
        given = {
            "features": features, "pixels": pixels, "size": np.array(asked.size, np.float32), "windows": windows,
            "boxes": asked.boxes, "sure": asked.sure, "points": asked.points, "labels": asked.labels, "rough": asked.rough,
        }  # fmt: skip
        dtypes = {"labels": np.int64}
        logits, expected = self._decode.run(
            None, {key: np.ascontiguousarray(value, dtypes.get(key, np.float32)) for key, value in given.items()}
        )
        return logits, expected


def _session(name: str, listed: dict[str, Any], state: dict[str, np.ndarray]) -> onnxruntime.InferenceSession:
    """One of the graphs with its weights."""
    path = GRAPHS.with_name(f"{name}.onnx")
    graph = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(graph).hexdigest() != listed["sha256"]:
        raise WeightsError(f"{path}: {'the file is damaged' if graph else 'the file is missing'}; reinstall terralabel.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(state[key]) for key in listed["weights"]]
    options.add_external_initializers(list(listed["weights"]), values)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
