"""Checkpoints: whole or absent, checked by their sha256, refused by name when they are something else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors import SafetensorError  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from terralabel.core.classes import Classes  # noqa: E402
from terralabel.errors import SpaceError, WeightsError  # noqa: E402
from terralabel.imagery.radiometry import Radiometry  # noqa: E402
from terralabel.train.segmentation import checkpoint as module  # noqa: E402
from terralabel.train.segmentation.checkpoint import (  # noqa: E402
    Checkpoint,
    load_optimizer,
    mark,
    open_checkpoint,
    prune,
    save_checkpoint,
)

RECORD = {
    "network": {"name": "tiny", "bands": 3, "classes": 2, "auxiliary": False},
    "classes": json.loads(Classes.of_clusters(2).to_json()),
    "radiometry": json.loads(Radiometry("stretch", (0.0,) * 3, (255.0,) * 3, "uint8").to_json()),
    "mean": [0.0] * 3,
    "std": [1.0] * 3,
    "steps": 20,
    "settings": {},
}


def trained(optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 2, 3)
    more = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    made = optimizer(network.parameters(), lr=0.1, **more)
    for _ in range(2):
        made.zero_grad()
        network(torch.randn(1, 3, 8, 8)).square().sum().backward()
        made.step()
    return network, made


def saved(folder: Path, step: int = 5) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    network, optimizer = trained()
    return save_checkpoint(folder, network.state_dict(), optimizer, {**RECORD, "step": step})


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_network_and_optimizer_come_back_bit_for_bit(tmp_path: Path, kind: type[torch.optim.Optimizer]) -> None:
    network, optimizer = trained(kind)
    save_checkpoint(tmp_path, network.state_dict(), optimizer, {**RECORD, "step": 2})
    found = open_checkpoint(tmp_path / "step-00000002.json")
    again = nn.Conv2d(3, 2, 3)
    again.load_state_dict(found.weights())
    other = type(optimizer)(again.parameters(), lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    load_optimizer(other, found.optimizer_tensors())
    for made, net in ((optimizer, network), (other, again)):
        made.zero_grad()
        net(torch.ones(1, 3, 8, 8)).sum().backward()
        made.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_a_checkpoint_is_found_by_all_its_names(tmp_path: Path) -> None:
    first = saved(tmp_path, 5)
    mark(tmp_path, "best", first)
    last = saved(tmp_path, 9)
    mark(tmp_path, "last", last)
    assert open_checkpoint(tmp_path).step == 5
    assert open_checkpoint(tmp_path, "last").step == 9
    assert open_checkpoint(tmp_path / "last.json").step == 9
    assert open_checkpoint(tmp_path / "step-00000009.safetensors").step == 9
    assert open_checkpoint(tmp_path / "step-00000005.json").classes == Classes.of_clusters(2)


def test_the_network_file_stands_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "a").path
    alone = Path(shutil.copy(path, tmp_path / "moved.safetensors"))
    found = open_checkpoint(alone)
    assert found.step == 5
    assert set(found.weights()) == {"weight", "bias"}
    with pytest.raises(WeightsError, match="without its optimizer"):
        found.optimizer_tensors()


def test_only_last_and_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        made = saved(tmp_path, step)
        mark(tmp_path, "last", made)
        if step == 2:
            mark(tmp_path, "best", made)
        prune(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == [
        "step-00000002.json",
        "step-00000002.safetensors",
        "step-00000004.json",
        "step-00000004.optimizer.safetensors",
        "step-00000004.safetensors",
    ]


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark(tmp_path, "last", saved(tmp_path, 1))
    before = sorted(p.name for p in tmp_path.iterdir())
    writes = []

    def second_fails(tensors: dict, path: Path, note: dict) -> None:
        writes.append(path)
        save_file(tensors, path, note)
        if len(writes) == 2:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", second_fails)
    with pytest.raises(SpaceError, match=r"Disk full while writing .*optimizer.* MB needed"):
        saved(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert open_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, keep: float) -> None:
    path = saved(tmp_path).path
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(WeightsError, match="sha256"):
        open_checkpoint(path).weights()


def test_one_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path).path
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="sha256"):
        open_checkpoint(path).weights()


def test_foreign_files_are_refused_by_what_they_are(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="expected a checkpoint of"):
        open_checkpoint(tmp_path / "other.safetensors")
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    with pytest.raises(WeightsError, match="web page"):
        open_checkpoint(tmp_path / "page.safetensors")
    (tmp_path / "a.json").write_text('{"a": 1}')
    with pytest.raises(WeightsError, match="no record of a checkpoint"):
        open_checkpoint(tmp_path / "a.json")
    with pytest.raises(WeightsError, match="holds no"):
        open_checkpoint(tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        open_checkpoint(tmp_path / "nothing")


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    planted = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (planted,))

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(WeightsError):
        open_checkpoint(tmp_path / "bomb.pt")
    assert not planted.exists()


@pytest.mark.parametrize(
    ("key", "value"), [("classes", {"classes": []}), ("radiometry", {}), ("step", "x"), ("network", {}), ("std", [1.0])]
)
def test_a_damaged_record_is_named(tmp_path: Path, key: str, value: object) -> None:
    note = saved(tmp_path).path.with_suffix(".json")
    note.write_text(json.dumps({**json.loads(note.read_text()), key: value}))
    with pytest.raises(WeightsError, match="damaged"):
        open_checkpoint(note)


def test_another_format_is_refused(tmp_path: Path) -> None:
    note = saved(tmp_path).path.with_suffix(".json")
    note.write_text(json.dumps({**json.loads(note.read_text()), "format": 99}))
    with pytest.raises(WeightsError, match="format 99"):
        open_checkpoint(note)
