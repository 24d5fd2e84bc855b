"""The report: a run on one page. One HTML file, no scripts, nothing loaded from elsewhere, small whatever the run's size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from terralabel.core.classes import IGNORE, ClassEntry
from terralabel.core.files import write_text
from terralabel.export.cards import CARDS, cards_section, class_name, overlay_section
from terralabel.export.judged import QualityPage, quality_section
from terralabel.export.markup import ImageBudget, bar, flatten, number, percent, table, text
from terralabel.export.scores import scores_section
from terralabel.export.specimens import ReportView, RunFacts, gather

__all__ = ["ReportView", "write_report"]

#: Bytes of pictures (as base64) on a page, and rows of any table.
_IMAGE_BYTES, _ROWS = 12_000_000, 300
#: Crops on a whole page; many classes share them.
_CROPS = 2000
_STATUSES = ("ok", "empty", "nodata", "failed")


def write_report(
    run: ReportView,
    final: Path,
    *,
    evaluation: Mapping[str, Any] | None = None,
    quality: QualityPage | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    crops_per_cluster: int = 12,
    overlays: int = 6,
) -> Path:
    """Write the report of a run as one HTML file under 15 MB; returns `final`.

    Per cluster it shows up to `crops_per_cluster` typical (highest score) and as many least certain objects (a third of
    them where a class has several clusters); `overlays` is the number of image | labels pairs; `evaluation` is what `terralabel evaluate labels --json` wrote; `quality` what is known of
    the quality of the labels; `history` is
    one mapping per invocation (time, verb, outcome, seconds...), oldest first. Memory stays bounded: objects and rasters
    are passed over in batches and windows. Equal arguments give equal bytes. Raises `SpaceError` when the disk is full.
    """
    clusters = sum(max(len(entry.clusters), 1) for entry in run.classes)
    count = min(crops_per_cluster, max(_CROPS // (2 * max(clusters, 1)), 2))
    facts = gather(run, room=5 * count)
    budget = ImageBudget(_IMAGE_BYTES)
    shown = _ranked_classes(run, facts)
    pictures = overlay_section(run, overlays, budget)
    cards = cards_section(run, shown, facts, count, budget)
    sections = [
        ("pictures", "Pictures", pictures),
        ("classes", "Classes", _class_table(shown, facts) + cards),
        ("quality", "Quality", quality_section(run, quality, budget) if quality else ""),
        ("scores", "Scores", scores_section(evaluation) if evaluation else ""),
        ("tiles", "Tiles", _tiles_section(run, facts)),
        ("scenes", "Scenes", _scenes_section(run, facts)),
        ("made", "How it was made", _made_section(run, history)),
    ]
    sections = [section for section in sections if section[2]]
    page = Template(_resource("report.html")).substitute(
        title=text(_title(run)),
        style=_resource("report.css"),
        lead=_lead(run, facts, history),
        figures=_figures(facts, evaluation),
        strip=_strip(shown, facts),
        palette=_palette(shown, facts),
        notes=_notes(run, facts, budget),
        nav="".join(f'<a href="#{key}">{heading}</a>' for key, heading, _ in sections),
        sections="".join(f'<section id="{key}"><h2>{heading}</h2>{body}</section>' for key, heading, body in sections),
    )
    write_text(Path(final), page)
    return Path(final)


def _resource(name: str) -> str:
    return files("terralabel.export").joinpath(name).read_text(encoding="utf-8")


def _title(run: ReportView) -> str:
    """The run's folder and the one it lies in: many runs are just called "run"."""
    parts = [part for part in Path(run.path).parts if part not in ("/", "..")]
    return " / ".join(parts[-2:]) or run.id


def _ranked_classes(run: ReportView, facts: RunFacts) -> list[ClassEntry]:
    """Classes by labelled area, largest first, then dropped objects (id 255) and ids that are in no class map."""
    known = {entry.id: entry for entry in run.classes}
    for class_id in sorted(facts.classes):
        if class_id not in known and class_id != IGNORE:
            known[class_id] = ClassEntry(class_id, f"class {class_id}, not in the class map", "#888888")
    return sorted(known.values(), key=lambda e: (-facts.classes[e.id].pixels, -facts.classes[e.id].objects, e.id))


def _lead(run: ReportView, facts: RunFacts, history: Sequence[Mapping[str, Any]]) -> str:
    manifest, last = run.manifest, history[-1] if history else {}
    version = manifest.get("terralabel") or (manifest.get("versions") or {}).get("terralabel")
    scenes = "1 scene" if len(run.scenes) == 1 else f"{number(len(run.scenes))} scenes"
    parts = [
        f"{scenes}, {facts.scene_pixels / 1e6:,.1f} megapixels",
        f"masks by <b>{text(run.masks_name)}</b>",
        f"run <code>{text(run.id)}</code>",
        f"{text(last.get('outcome', 'started'))} {text(last['time'])}" if last.get("time") else "",
        f"TerraLabel {text(version)}" if version else "",
    ]
    return " · ".join(part for part in parts if part)


def _figures(facts: RunFacts, evaluation: Mapping[str, Any] | None) -> str:
    failed = facts.tiles.status["failed"]
    figures = [
        (number(facts.objects), "objects", ""),
        (number(sum(1 for c, f in facts.classes.items() if c != IGNORE and (f.objects or f.pixels))), "classes in use", ""),
        (percent(facts.labelled, facts.scene_pixels), "of the area labelled", ""),
        (number(sum(facts.tiles.status.values())), "tiles", ""),
        (number(failed), "tiles failed", " warn" if failed else ""),
    ]
    if evaluation and isinstance(evaluation.get("miou"), (int, float)):
        figures.insert(0, (number(float(evaluation["miou"])), "mean IoU", ""))
    return "".join(f'<div class="figure{css}"><b>{value}</b><span>{label}</span></div>' for value, label, css in figures)


def _strip(shown: list[ClassEntry], facts: RunFacts) -> str:
    total = max(facts.scene_pixels, 1)
    return "".join(
        f'<i style="width:{100 * facts.classes[e.id].pixels / total:.3f}%;background:{e.color}" title="{text(e.name)}"></i>'
        for e in shown[:_ROWS]
        if facts.classes[e.id].pixels
    )


def _palette(shown: list[ClassEntry], facts: RunFacts) -> str:
    items = [
        f'<li><a href="#class-{e.id}">{class_name(e)}</a>'
        f" <small>{percent(facts.classes[e.id].pixels, facts.scene_pixels)}</small></li>"
        for e in shown[:CARDS]
    ]
    rest = max(facts.scene_pixels - facts.labelled, 0)
    blank = f"<li class=soft>no label or no data <small>{percent(rest, facts.scene_pixels)}</small></li>" if rest else ""
    return "".join(items) + blank


def _notes(run: ReportView, facts: RunFacts, budget: ImageBudget) -> str:
    """What a reader must know before trusting the picture: the run's own notes, and what its counts say."""
    given = run.manifest.get("notes", ())
    notes = [str(note) for note in (given if isinstance(given, (list, tuple)) else [given])][:50]
    if facts.tiles.status["failed"]:
        notes.append(f"{facts.tiles.status['failed']} tiles failed and have no masks; the reasons stand under Tiles.")
    unnamed = [e for e in run.classes if len(e.clusters) == 1 and e.name == f"cluster {e.clusters[0]}"]
    if unnamed:
        notes.append(
            f"{len(unnamed)} of {len(run.classes)} classes are clusters that nobody has named: "
            "what they mean is for a person to say."
        )
    missing = [key for key, scene in facts.scenes.items() if scene.labelled is None]
    if missing:
        notes.append(f"{len(missing)} scenes have no label raster, the first is {missing[0]}.")
    if budget.refused:
        notes.append(f"{budget.refused} pictures were left out to keep this page small.")
    if budget.unreadable:
        notes.append(f"{len(budget.unreadable)} pictures could not be read. The first: {budget.unreadable[0]}")
    if any(entry.clusters for entry in run.classes):
        notes.append(
            "A score says how much nearer an object is to its own cluster than to the next, not how likely it is right."
        )
    if not notes:
        return ""
    return f'<ul class="notes">{"".join(f"<li>{text(note, 600)}</li>" for note in notes)}</ul>'


def _class_table(shown: list[ClassEntry], facts: RunFacts) -> str:
    rows = []
    for entry in shown[:_ROWS]:
        seen = facts.classes[entry.id]
        share = seen.pixels / facts.scene_pixels if facts.scene_pixels else 0.0
        rows.append(
            [
                class_name(entry),
                text(entry.id),
                text(", ".join(map(str, entry.clusters)) or "none", 80),
                number(seen.objects),
                f"{bar(share)} {percent(seen.pixels, facts.scene_pixels)}",
                f"{seen.score_sum / seen.objects:.2f}" if seen.objects else "",
            ]
        )
    head = ["Class", "Id", "Clusters", "Objects", "Share of area", "Mean score"]
    return table(head, rows, numeric=(1, 3, 4, 5), limit=_ROWS) + "<p></p>"


def _tiles_section(run: ReportView, facts: RunFacts) -> str:
    tiles, total = facts.tiles, sum(facts.tiles.status.values())
    order = [*_STATUSES, *sorted(set(tiles.status) - set(_STATUSES))]
    rows = [[text(s), number(tiles.status[s]), percent(tiles.status[s], total)] for s in order]
    out = table(["Tiles", "Count", "Share"], [*rows, ["all", number(total), ""]], numeric=(1, 2)) + _mask_sentence(facts)
    why = []
    for (status, reason), n in sorted(tiles.reasons.items(), key=lambda item: (-item[1], item[0])):
        if reason:
            examples = ", ".join(f"<code>{text(key, 120)}</code>" for key in tiles.examples[status, reason])
            why.append([text(status), text(reason, 400), number(n), examples])
    if why:
        out += "<h4>Reasons</h4>" + table(["Status", "Reason", "Tiles", "For example"], why, numeric=(2,), limit=100)
    inputs = [[f"<bdi>{text(f.source)}</bdi>", text(f.status), text(f.reason, 400)] for f in getattr(run, "failed_sources", ())]
    if inputs:
        out += "<h4>Inputs that failed</h4>" + table(["Input", "Status", "Reason"], inputs, limit=100)
    return out


def _mask_sentence(facts: RunFacts) -> str:
    """Masks before and after the gates, then objects."""
    dropped = {gate: n for gate, n in sorted(facts.tiles.dropped.items()) if n}
    gates = ", ".join(f"{number(n)} by {text(gate)}" for gate, n in dropped.items())
    found = facts.tiles.masks + sum(dropped.values())
    before = f"{number(found)} masks were found; gates dropped {gates}. " if dropped else ""
    return f"<p class=soft>{before}{number(facts.tiles.masks)} masks in tiles became {number(facts.objects)} objects of scenes.</p>"


def _scenes_section(run: ReportView, facts: RunFacts) -> str:
    rows = []
    for scene in sorted(run.scenes, key=lambda s: s.key)[: _ROWS + 1]:
        seen = facts.scenes[scene.key]
        tiles = ", ".join(f"{number(n)} {text(s)}" for s, n in sorted(seen.tiles.items()))
        labelled = "no raster" if seen.labelled is None else percent(seen.labelled, scene.width * scene.height)
        size = f"{number(scene.width)} x {number(scene.height)}"
        place = "yes" if scene.georeference.is_placed else "no"
        rows.append(
            [f"<bdi>{text(scene.stem, 160)}</bdi>", size, text(scene.sensor), place, tiles, number(seen.objects), labelled]
        )
    extra = len(run.scenes) - len(rows)
    head = ["Scene", "Size", "Sensor", "Georeferenced", "Tiles", "Objects", "Labelled"]
    more = f"<p class=soft>and {number(extra + 1)} more scenes</p>" if extra > 0 else ""
    return table(head, rows[:_ROWS] if extra > 0 else rows, numeric=(1, 5, 6), limit=_ROWS) + more


def _radiometry(run: ReportView) -> Any:
    """What lies in the run's `radiometry.json`, if it can be read."""
    path = Path(run.path) / "radiometry.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size < 1_000_000 else None
    except (OSError, ValueError):
        return None


def _made_section(run: ReportView, history: Sequence[Mapping[str, Any]]) -> str:
    """The command as it was given, what was done when, the settings in the open, the rest on request."""
    manifest = run.manifest
    command = manifest.get("command")
    line = " ".join(map(str, command)) if isinstance(command, (list, tuple)) else str(command or "")
    out = f"<pre>{text(line, 2000)}</pre>" if line else ""
    done = [[text(entry.get(key, "")) for key in ("time", "verb", "outcome", "seconds", "workers")] for entry in history[-50:]]
    if done:
        out += table(["When", "What", "Outcome", "Seconds", "Workers"], done, numeric=(3, 4))
    rest = {k: v for k, v in manifest.items() if k not in ("command", "notes", "settings", "backends")}
    tables = (
        ("Backends", manifest.get("backends"), " open"),
        ("Settings", manifest.get("settings"), " open"),
        ("Radiometry", _radiometry(run), " open"),
        ("Everything recorded", rest, ""),
    )
    for heading, values, opened in tables:
        rows = [[text(name, 120), text(value, 500)] for name, value in flatten(values)] if values else []
        if rows:
            body = table(["Name", "Value"], rows, limit=_ROWS).replace("<tr><td>", "<tr><td class=setting>")
            out += f"<details{opened}><summary>{heading}</summary>{body}</details>"
    return out
