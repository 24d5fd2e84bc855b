"""The loop of every fit, of a locator to triplets and of a mask decoder to masks.

Every batch is a function of the seed and its step, so a fit that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from terralabel.core.files import atomic_path
from terralabel.errors import RunError
from terralabel.train.referring.settings import DecoderSettings, FitSettings
from terralabel.train.segmentation.logs import Log, read_log

__all__ = ["STATE", "Pupil", "begun", "fit"]

#: What is needed to go on, beside the files of what is learned.
STATE = "resume.pt"
#: Steps between two lines of log.csv.
_LOGGED = 10


class Pupil(Protocol):
    """What learns: a locator, or a mask decoder. `early`: what it has learned is written at every checkpoint, not at the last only."""

    net: nn.Module
    lr: float
    early: bool

    def loss(self, items: Sequence[Any], rng: np.random.Generator) -> Tensor:
        """The loss of a batch; whatever is drawn for it comes from `rng`."""
        ...

    def save(self, folder: Path, note: Mapping[str, Any]) -> None:
        """Write what `--locator fitted:FOLDER` or `--masks` reads."""
        ...


def fit(
    pupil: Pupil,
    items: Sequence[Any],
    out: Path,
    settings: FitSettings | DecoderSettings,
    note: Mapping[str, Any],
    *,
    advance: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """Teach to the last step, going on from what lies in `out`; returns the mean loss of the last steps.

    `note` is kept beside what is learned and tells one fit from another: `RunError` where `out` holds one of other data or settings,
    and where a loss is not finite (the last checkpoint stays). `OUT/log.csv` has the losses.
    """
    out.mkdir(parents=True, exist_ok=True)
    step = 0
    learning = [parameter for parameter in pupil.net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=settings.lr or pupil.lr, weight_decay=1e-4)
    stored = begun(out, note)
    if stored is not None:
        step = int(stored["step"])
        pupil.net.load_state_dict(stored["net"])
        optimizer.load_state_dict(stored["optimizer"])
    recent: list[float] = []
    log = Log(out, step)
    while step < settings.steps:
        rng = np.random.default_rng([settings.seed, step])
        chosen = rng.integers(0, len(items), settings.batch_size)
        for group in optimizer.param_groups:
            group["lr"] = _rate(settings, pupil.lr, step)
        pupil.net.train()
        loss = pupil.loss([items[k] for k in chosen.tolist()], rng)
        if not bool(loss.isfinite()):
            raise RunError(
                f"The loss is {float(loss)} at step {step}: the last checkpoint in {out} stays; take a smaller --lr."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        step += 1
        recent = [*recent[-49:], float(loss.detach())]
        advance(step, recent[-1])
        if step % _LOGGED == 0 or step == settings.steps:
            log.add({"step": step, "loss": float(np.mean(recent[-_LOGGED:])), "lr": optimizer.param_groups[0]["lr"]})
        if step % settings.save_every == 0 or step == settings.steps:
            pupil.net.eval()
            if pupil.early or step == settings.steps:
                pupil.save(out, note)
            held = {"step": step, "note": dict(note), "net": pupil.net.state_dict(), "optimizer": optimizer.state_dict()}
            with atomic_path(out / STATE) as temporary:
                torch.save(held, temporary)
    log.close()
    pupil.net.eval()
    return float(np.mean(recent)) if recent else next((row["loss"] for row in reversed(read_log(log.path))), math.nan)


def begun(out: Path, note: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is needed to go on with the fit in `out`; None where there is none, `RunError` where there is another one."""
    path = out / STATE
    if not path.exists():
        return None
    try:
        stored = torch.load(path, weights_only=True)
        same = stored["note"] == dict(note)
    except Exception as error:  # torch raises whatever a damaged file leads to
        raise RunError(f"{path} is damaged ({type(error).__name__}): remove it, and the fit begins anew.") from error
    if not same:
        raise RunError(f"{out} holds a fit to other data or with other settings: choose another folder.")
    return stored


def _rate(settings: FitSettings | DecoderSettings, usual: float, step: int) -> float:
    """Up over 20 steps, then down along a cosine to a hundredth."""
    down = 0.505 + 0.495 * math.cos(math.pi * step / settings.steps)
    return (settings.lr or usual) * min(1.0, (step + 1) / 20) * down
