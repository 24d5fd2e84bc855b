"""Write the graphs that onnxruntime computes: `python -m terralabel.nets.nano.export`.

Only after a change of the architecture: the graphs hold no weights, those come from the safetensors at every start. Needs torch
and onnx. `encode.onnx`, `guess.onnx`, `decode.onnx` and `graphs.json` are written into the package, or the folder given.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from terralabel.core.files import atomic_path
from terralabel.nets.nano.network import NanoNet, describe, prompt_channels

__all__ = ["export", "main"]

#: Known to every onnxruntime that the extra allows.
_OPSET = 17


class _Encode(nn.Module):
    """picture (1, h, w, 3) -> deep, shallow, atlas, description, all (1, ..., channels); see `network.Seen`."""

    def __init__(self, net: NanoNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        seen = self.net.encode(picture.permute(0, 3, 1, 2))
        return tuple(found.permute(0, 2, 3, 1) for found in (seen.deep, seen.shallow, seen.atlas, describe(seen)))


class _Guess(nn.Module):
    """The map's vectors (n, 64) at points xy (n, 2) -> boxes (n, 3, 4) and the IoU expected of them (n, 3)."""

    def __init__(self, net: NanoNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, vectors: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
        boxes, fits = self.net.guess(vectors, xy)
        return boxes, fits.sigmoid()


class _Decode(nn.Module):
    """The map (n, g, g, 24) and the pixels (n, g, g, 3) of windows, and the prompts of `runtime.Asked` -> logits, expected IoU."""

    def __init__(self, net: NanoNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, features: Tensor, pixels: Tensor, size: Tensor, windows: Tensor, boxes: Tensor, sure: Tensor, points: Tensor,
        labels: Tensor, rough: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        prompts = prompt_channels(windows, rough.shape[-1], (size[0], size[1]), boxes, sure, points, labels, rough)  # type: ignore[arg-type]
        logits, expected = self.net.answer(features.permute(0, 3, 1, 2), pixels.permute(0, 3, 1, 2), prompts)
        return logits, expected.sigmoid()


def _examples() -> dict[str, tuple[type[nn.Module], dict[str, Tensor], dict[str, dict[int, str]]]]:
    """For each graph its module, inputs to trace it with, and which axes of these may vary."""
    n, g, p = 3, 24, 2
    asked = {
        "features": torch.rand(n, g, g, 24), "pixels": torch.rand(n, g, g, 3), "size": torch.tensor([256.0, 256.0]),
        "windows": torch.tensor([[0.0, 0, 30, 30]] * n), "boxes": torch.tensor([[5.0, 5, 20, 20]] * n), "sure": torch.ones(n),
        "points": torch.ones(n, p, 2), "labels": torch.ones(n, p, dtype=torch.int64), "rough": torch.zeros(n, g, g),
    }  # fmt: skip
    cells = {0: "n", 1: "g", 2: "g"}
    axes = {key: {0: "n"} for key in asked if key != "size"} | dict.fromkeys(("features", "pixels", "rough"), cells)
    axes |= {key: {0: "n", 1: "p"} for key in ("points", "labels")}
    return {
        "encode": (_Encode, {"picture": torch.rand(1, 128, 192, 3)}, {"picture": {1: "h", 2: "w"}}),
        "guess": (_Guess, {"vectors": torch.rand(n, 64), "xy": torch.rand(n, 2)}, {"vectors": {0: "n"}, "xy": {0: "n"}}),
        "decode": (_Decode, asked, axes),
    }


def export(folder: Path) -> Path:
    """Write the three graphs and `graphs.json` into `folder`; returns the latter."""
    net = NanoNet().eval().requires_grad_(False)
    for values in net.state_dict().values():
        if values.is_floating_point():
            values.uniform_(0.5, 1.0)  # weights that are equal, as zeros and ones, would become one
    listed: dict[str, Any] = {}
    for name, (module, inputs, axes) in _examples().items():
        graph, weights = _without_weights(_traced(module(net), inputs, axes), "net.")
        with atomic_path(folder / f"{name}.onnx") as temporary:
            Path(temporary).write_bytes(graph)
        listed[name] = {"sha256": hashlib.sha256(graph).hexdigest(), "weights": weights}
    index = folder / "graphs.json"
    with atomic_path(index) as temporary:
        Path(temporary).write_text(json.dumps(listed, indent=1) + "\n")
    return index


def _traced(module: nn.Module, inputs: dict[str, Tensor], axes: dict[str, dict[int, str]]) -> bytes:
    """The graph with its weights, batch norm left as it is: onnxruntime folds it at the start."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that traced sizes are constants, which those that vary are not; see the tests
        torch.onnx.export(
            module.eval(), tuple(inputs.values()), stream, input_names=list(inputs), dynamic_axes=axes, opset_version=_OPSET,  # type: ignore[arg-type]
            training=torch.onnx.TrainingMode.PRESERVE, dynamo=False, verbose=False,
        )  # fmt: skip
    return stream.getvalue()


def _without_weights(graph: bytes, prefix: str) -> tuple[bytes, dict[str, list[int]]]:
    """The graph with every weight of the network's made a reference, and their shapes; names lose `prefix`."""
    import onnx

    model = onnx.load_model_from_string(graph)
    weights: dict[str, list[int]] = {}
    for tensor in model.graph.initializer:
        if tensor.name.startswith(prefix):
            tensor.name = tensor.name.removeprefix(prefix)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="nano.safetensors")
            weights[tensor.name] = list(tensor.dims)
    for node in model.graph.node:
        node.input[:] = [name.removeprefix(prefix) for name in node.input]
        node.ClearField("doc_string")
    model.ClearField("doc_string")
    return model.SerializeToString(deterministic=True), dict(sorted(weights.items()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder; the package's own by default")
    print(export(parser.parse_args().out))


if __name__ == "__main__":
    main()
