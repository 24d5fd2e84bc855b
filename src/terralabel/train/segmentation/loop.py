"""The loop: batches, steps, measurements, checkpoints; interrupted and resumed as if it had not been."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from terralabel.errors import RunError
from terralabel.evaluate.curves import Chart, Line, draw_charts
from terralabel.nets.segmentation.groups import make_optimizer, set_rates
from terralabel.nets.segmentation.network import Network
from terralabel.nets.segmentation.schedules import Schedule
from terralabel.runs.progress import Progress
from terralabel.train.segmentation.checkpoint import Checkpoint, load_optimizer, mark, prune, save_checkpoint
from terralabel.train.segmentation.distributed import Team, shared
from terralabel.train.segmentation.inference import as_input, autocast
from terralabel.train.segmentation.logs import Log, read_log
from terralabel.train.segmentation.losses import Objective, PixelCrossEntropy, confusion
from terralabel.train.segmentation.samples import Batch, Samples
from terralabel.train.segmentation.settings import TrainSettings
from terralabel.train.segmentation.validation import Validation, accuracy_of, miou_of

__all__ = ["Job", "Training"]


@dataclass(frozen=True)
class Job:
    """What is trained, on what, where, and what its checkpoints say besides (`record`)."""

    network: Network
    samples: Samples
    schedule: Schedule
    settings: TrainSettings
    folder: Path
    record: Mapping[str, Any]
    device: torch.device
    team: Team = field(default_factory=Team)
    validation: Validation | None = None
    objective: Objective | None = None  # None: cross entropy over the labelled pixels

    @property
    def validate_every(self) -> int:
        """Steps between two measurements."""
        return self.settings.validate_every or max(1, self.schedule.iterations // 10)

    @property
    def save_every(self) -> int:
        """Steps between two checkpoints."""
        return self.settings.save_every or max(1, min(1000, self.schedule.iterations // 10))


class Feed:
    """The batches of a training, drawn ahead by threads where there are any."""

    def __init__(self, samples: Samples, places: range, workers: int) -> None:
        self.samples, self.places = samples, places
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._ahead: dict[int, list[Future]] = {}

    def batch(self, step: int) -> Batch:
        """This process's share of a step's batch."""
        if self._pool is None:
            return self.samples.batch(step, self.places)
        for coming in range(step, step + 3):
            if coming not in self._ahead:
                self._ahead[coming] = [self._pool.submit(self.samples.crop, coming, place) for place in self.places]
        crops = [future.result() for future in self._ahead.pop(step)]
        return Batch(np.stack([pixels for pixels, _ in crops]), np.stack([labels for _, labels in crops]))

    def close(self) -> None:
        """End the threads; what they were drawing is not wanted."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _stop_after_step() -> Iterator[list[int]]:
    """SIGTERM and Ctrl-C are noted in the list, once; the step is finished and saved, and then they take their course."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        for known, handler in before.items():
            signal.signal(known, handler)  # a second one ends at once

    try:
        for number in (int(signal.SIGTERM), int(signal.SIGINT)):
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: signals are the caller's business
        pass
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Training:
    """A network, its optimizer and its history at some step."""

    def __init__(self, job: Job) -> None:
        self.job, self.step = job, 0
        self.network: nn.Module = shared(job.network.to(job.device), job.team)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(job.network, job.schedule)
        self.objective = job.objective or PixelCrossEntropy(job.settings.auxiliary)
        self.scaler = torch.amp.GradScaler(job.device.type, enabled=job.settings.precision == "fp16")
        self.measures: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.seen_miou: float | None = None
        self._last: Checkpoint | None = None

    # ---------------------------------------------------------------------------------------------------------- a step

    def advance(self, batch: Batch, stop: bool = False) -> tuple[float, Tensor, bool]:
        """One step on this process's share of a batch: (loss, (K, K) counts of its own share, whether any process stops).

        Raises `RunError` when the loss or its gradient is not finite; the network is as before the step then.
        """
        job, settings = self.job, self.job.settings
        torch.manual_seed(_seed(settings.seed, self.step))
        set_rates(self.optimizer, job.schedule, self.step)
        whole = torch.tensor([self.objective.weigh(batch.labels), float(stop)], dtype=torch.float64, device=_at(job.device))
        weight, stopping = job.team.sum_(whole).tolist()
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss, counts = self._backward(batch, max(weight, 1.0))
        job.team.sum_gradients(self.network.parameters())
        value = float(job.team.sum_(loss))
        self._update(value)
        self.step += 1
        return value, counts, stopping > 0

    def _backward(self, batch: Batch, weight: float) -> tuple[Tensor, Tensor]:
        """Gradients of the loss over this process's share, part by part; the loss and the counts."""
        job = self.job
        total = torch.zeros(1, device=job.device)
        counts = torch.zeros((job.network.classes,) * 2, dtype=torch.int64)
        for part in np.array_split(np.arange(len(batch.labels)), job.settings.accumulate):
            labels = torch.from_numpy(batch.labels[part].astype(np.int64)).to(job.device, non_blocking=True)
            with autocast(job.device, job.settings.precision):
                outputs = self.network(as_input(job.network, batch.pixels[part], job.device), with_auxiliary=True)
            summed, logits = self.objective(outputs, labels)
            loss = summed / weight
            self.scaler.scale(loss).backward()
            total += loss.detach()
            if self.step % job.settings.log_every == 0:
                counts += confusion(logits.detach(), labels, job.network.classes)
        return total, counts

    def _update(self, loss: float) -> None:
        self.scaler.unscale_(self.optimizer)
        clip = self.job.settings.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), clip))
        scaled = self.scaler.is_enabled()  # then a gradient that overflows is skipped by the scaler, and is no fault
        if not math.isfinite(loss) or (not math.isfinite(norm) and not scaled):
            last = f"the last good checkpoint is {self._last.path}" if self._last else "no checkpoint had been saved"
            raise RunError(
                f"The loss is {loss:g} and its gradient {norm:g} at step {self.step + 1}: training stopped, {last}."
                " Start anew with a lower --lr, with --clip 1, or with --precision fp32."
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()

    # -------------------------------------------------------------------------------------------------------- the whole

    def run(self, progress: Progress) -> None:
        """Train to the schedule's end; log, measure and save on the way.

        SIGTERM and Ctrl-C finish the step, save, and then do what they would have done.
        """
        job = self.job
        log = Log(job.folder, self.step) if job.team.leads else None
        feed = Feed(job.samples, job.team.share(job.settings.batch_size), self._workers())
        progress.start("train", job.schedule.iterations, "steps", self.step)
        try:
            with _stop_after_step() as received:
                self._go(feed, log, progress, received)
        finally:
            feed.close()
            if log is not None:
                log.close()
        progress.finish()
        if received:
            progress.say(f"saved {job.folder} at step {self.step:,}")
            signal.raise_signal(received[0])

    def _workers(self) -> int:
        workers = self.job.settings.workers
        return workers if workers >= 0 else 8 if self.job.device.type == "cuda" else 0

    def _go(self, feed: Feed, log: Log | None, progress: Progress, received: list[int]) -> None:
        job, total = self.job, self.job.schedule.iterations
        window, stopping = _Window(job), False
        while self.step < total and not stopping:
            loss, counts, stopping = self.advance(feed.batch(self.step), bool(received))
            stopping = stopping or (bool(received) and job.team.size == 1)
            window.add(loss, counts)
            ends = stopping or self.step == total
            measured = job.validation is not None and (self.step % job.validate_every == 0 or self.step == total)
            better = measured and self._measure()
            if self.step % job.settings.log_every == 0 or measured or ends:
                row = window.row(self.step, job, self.measures if measured else {})
                self.seen_miou = row.get("miou", self.seen_miou)
                if log is not None:
                    log.add(row)
                window = _Window(job)
            progress.advance(1, self._note(loss))
            if self.step % job.save_every == 0 or better or ends:
                self._save(better)

    def _note(self, loss: float) -> str:
        """Loss, and mIoU of the val split where there is one, else of the last batch that was counted."""
        where, found = ("val mIoU", self.measures["miou"]) if self.measures else ("mIoU", self.seen_miou)
        return f"loss {loss:.3f}" + (f" {where} {found:.3f}" if found is not None else "")

    def _measure(self) -> bool:
        """Measure on the val split; whether that is the best so far."""
        assert self.job.validation is not None
        self.measures = self.job.validation.measure(self.job.network, self.job.device, self.job.team)
        better = self.measures["miou"] > self.best.get("miou", -1.0)
        if better:
            self.best = {"step": self.step, **self.measures}
        return better

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def _save(self, better: bool) -> None:
        """Write a checkpoint, make it the last (and best) one, and remove those that are neither."""
        job = self.job
        if job.team.leads:
            record = {
                **job.record, "step": self.step, "steps": job.schedule.iterations, "measures": self.measures, "best": self.best,
                "scale": self.scaler.get_scale() if self.scaler.is_enabled() else 0.0,
            }  # fmt: skip
            self._last = save_checkpoint(job.folder, job.network.state_dict(), self.optimizer, record)
            if better:
                mark(job.folder, "best", self._last)
            mark(job.folder, "last", self._last)
            prune(job.folder)
            draw_training(job.folder)
        job.team.wait()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this training."""
        self.job.network.load_state_dict(checkpoint.weights())
        load_optimizer(self.optimizer, checkpoint.optimizer_tensors())
        self.step, self._last = checkpoint.step, checkpoint
        self.measures, self.best = dict(checkpoint.record["measures"]), dict(checkpoint.record["best"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": checkpoint.record["scale"]})


class _Window:
    """What happened since the last line of the log."""

    def __init__(self, job: Job) -> None:
        self.losses: list[float] = []
        self.counts = torch.zeros((job.network.classes,) * 2, dtype=torch.int64)
        self.began = time.monotonic()

    def add(self, loss: float, counts: Tensor) -> None:
        self.losses.append(loss)
        self.counts += counts

    def row(self, step: int, job: Job, measures: Mapping[str, float]) -> dict[str, float]:
        images = len(self.losses) * job.settings.batch_size
        row = {"step": step, "loss": float(np.mean(self.losses)), "lr": job.schedule.rate(step - 1)}
        row["images_per_second"] = images / max(time.monotonic() - self.began, 1e-9)
        if self.counts.any():
            row |= {"accuracy": accuracy_of(self.counts.numpy()), "miou": miou_of(self.counts.numpy())}
        return row | {f"val_{name}": value for name, value in measures.items()}


def _seed(*numbers: int) -> int:
    """One seed for torch's own generator (dropout, drop path) from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _at(device: torch.device) -> torch.device:
    """Where float64 sums live: MPS has none."""
    return device if device.type == "cuda" else torch.device("cpu")


def draw_training(folder: Path) -> Path | None:
    """curves.png of a training: loss, and mIoU of batches and of the val split; None while there is nothing to draw."""
    rows = read_log(folder / "log.csv")
    if not rows:
        return None
    loss = Chart("loss", "step", [Line("loss", [(row["step"], row["loss"]) for row in rows])], low=0.0)
    found = [
        Line(name, [(row["step"], row[key]) for row in rows if key in row])
        for name, key in (("batches", "miou"), ("val", "val_miou"))
    ]
    miou = Chart("mIoU (absent classes left out)", "step", [line for line in found if line.points], low=0.0, high=1.0)
    return draw_charts(folder / "curves.png", [loss, miou])
