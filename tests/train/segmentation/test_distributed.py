"""Many processes as one: shares, masks, moments, gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from terralabel.errors import SettingsError  # noqa: E402
from terralabel.train.segmentation.distributed import SharedDropout2d, Team, join, shared  # noqa: E402

_TWO = """
import json, os, sys, torch
from torch import nn
from terralabel.train.segmentation.distributed import join, shared

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout2d(0.5), nn.Conv2d(4, 2, 1)).double()

def step(team, net, x, y):
    torch.manual_seed(5)
    out = net(x)
    (out * y).sum().backward()
    team.sum_gradients(net.parameters())
    return [p.grad for p in net.parameters()] + [net[1].running_mean, net[1].running_var]

torch.manual_seed(1)
x, y = torch.randn(4, 3, 9, 9).double(), torch.randn(4, 2, 7, 7).double()
team, device = join("cpu")
places = list(team.share(4))
found = step(team, shared(network(), team), x[places], y[places])
if team.leads:
    from terralabel.train.segmentation.distributed import Team
    whole = step(Team(), shared(network(), Team()), x, y)
    print(json.dumps([team.size, max(float((a - b).abs().max()) for a, b in zip(found, whole))]))
team.leave()
"""


@pytest.mark.slow
def test_two_processes_are_one_but_for_rounding(tmp_path: Path) -> None:
    import json
    import socket

    script = tmp_path / "two.py"
    script.write_text(_TWO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen(
            [sys.executable, script], env={**common, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    out = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    size, difference = json.loads(out[0])
    assert size == 2
    assert difference < 1e-9


def test_shares_cover_a_batch() -> None:
    assert [list(Team(rank, 3).share(6)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]


def test_one_process_keeps_its_batch_norms_and_masks_are_of_the_right_size() -> None:
    network = shared(nn.Sequential(nn.BatchNorm2d(3), nn.Dropout2d(0.25), nn.Dropout(0.0)), Team())
    assert type(network[0]) is nn.BatchNorm2d
    assert isinstance(network[1], SharedDropout2d)
    torch.manual_seed(0)
    out = network[1](torch.ones(200, 30, 2, 2))
    dropped = (out == 0).all(dim=(2, 3))
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.allclose(out[~dropped], torch.tensor(1 / 0.75))
    assert torch.equal(network.eval()[1](torch.ones(2, 3, 2, 2)), torch.ones(2, 3, 2, 2))


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(SettingsError, match="--device"):
        join("quantum")
    assert join("cpu")[1].type == "cpu"
