// The classes page: name, merge, drop, split, recolour; by mouse, by touch, by keys.

import { $, $$, change, isReplacing, onRefresh, refresh, tell, typing } from "./page.js";

const picked = new Set(); // class ids, in the order they were picked
const cards = () => $$(".card");
const idOf = (card) => Number(card.dataset.id);
const byId = (id) => document.getElementById(`class-${id}`);
const current = () => document.activeElement?.closest?.(".card");

function showPicked() {
  for (const id of picked) if (!byId(id)) picked.delete(id);
  for (const card of cards()) {
    const on = !card.classList.contains("dropped") && picked.has(idOf(card));
    card.classList.toggle("picked", on);
    const box = $(".pick", card);
    if (box) box.checked = on;
  }
  if (!$("#merge")) return;
  $("#merge").disabled = picked.size < 2;
  $("#drop").disabled = !picked.size;
  $("#selected").textContent = picked.size ? `${picked.size} selected` : "";
}

function pick(card) {
  if (!card || card.classList.contains("dropped")) return;
  const id = idOf(card);
  if (!picked.delete(id)) picked.add(id);
  showPicked();
}

const classes = (action, values) => change("/api/classes", { action, ...values });

async function merge(ids) {
  if (ids.length < 2) return tell("Select two cards or more (x), then merge.");
  if (await classes("merge", { classes: ids })) picked.clear();
  showPicked();
  byId(ids[0])?.focus();
}

async function drop(ids) {
  if (!ids.length) return;
  const next = current()?.nextElementSibling?.id;
  if (await classes("drop", { classes: ids })) picked.clear();
  showPicked();
  if (next) document.getElementById(next)?.focus();
}

// The name of another class means: these are the same.
async function name(card, text) {
  const wanted = text.trim();
  $("input.name", card).defaultValue = wanted; // sent once
  const twin = cards().find((other) => other !== card && !other.classList.contains("dropped") && $("input.name", other).defaultValue === wanted);
  if (twin) return merge([idOf(twin), idOf(card)]);
  const answer = await classes("name", { classes: [idOf(card)], name: wanted });
  if (!answer) await refresh(); // what was refused does not stay in the box
  return answer;
}

function split(card) {
  const dialog = $("#split-dialog");
  const clusters = card.dataset.clusters.split(" ").filter(Boolean);
  if (!clusters.length) return;
  $("#split-cluster").replaceChildren(...clusters.map((id) => new Option(id, id)));
  dialog.returnValue = "";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "split") return;
    await classes("split", { clusters: [Number($("#split-cluster").value)], parts: Number($("#split-parts").value) });
  };
  dialog.showModal();
}

function step(by) {
  const all = cards();
  const at = all.indexOf(current());
  const next = all[at < 0 ? 0 : Math.min(Math.max(at + by, 0), all.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("change", (event) => {
  const card = event.target.closest(".card");
  if (event.target.id === "sort") event.target.form.requestSubmit();
  if (!card) return;
  if (event.target.matches(".pick")) pick(card);
  if (event.target.matches(".color")) classes("color", { classes: [idOf(card)], color: event.target.value });
});

document.addEventListener("focusout", ({ target }) => {
  if (!isReplacing() && target.matches?.("input.name") && target.value.trim() !== target.defaultValue) name(target.closest(".card"), target.value);
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const card = event.target.closest(".card");
  if (!button) return;
  if (button.id === "merge") merge([...picked]);
  if (button.id === "drop") drop([...picked]);
  if (button.matches(".suggestion")) merge(button.dataset.ids.split(" ").map(Number));
  if (button.matches(".chip")) name(card, button.dataset.name);
  if (button.matches(".split")) split(card);
  if (button.matches(".restore")) classes("restore", { clusters: [Number(button.dataset.cluster)] });
});

document.addEventListener("keydown", (event) => {
  const card = current();
  if (event.target.matches("input.name")) {
    if (event.key === "Enter") { event.preventDefault(); card.focus(); }
    if (event.key === "Escape") { event.target.value = event.target.defaultValue; card.focus(); } // before the focus goes: nothing is sent
    return;
  }
  if (typing(event) || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("button, a, summary")) return;
  const key = event.key;
  if (key === "j" || key === "ArrowRight" || key === "ArrowDown") { event.preventDefault(); step(1); }
  else if (key === "k" || key === "ArrowLeft" || key === "ArrowUp") { event.preventDefault(); step(-1); }
  else if (key === "/") { event.preventDefault(); $("#search").focus(); }
  else if (key === "m") merge([...picked]);
  else if (key === "d") drop(picked.size ? [...picked] : card && !card.classList.contains("dropped") ? [idOf(card)] : []);
  else if (!card || card.classList.contains("dropped")) return;
  else if (key === "x" || key === " ") { event.preventDefault(); pick(card); }
  else if (key === "Enter" || key === "n") { event.preventDefault(); const box = $("input.name", card); box.focus(); box.select(); }
  else if (key === "a") $(".chip", card)?.click();
  else if (key === "o") $(".crops a", card)?.click();
  else if (key === "s") split(card);
});

// Merging by drag: what is dropped joins the card it is dropped on.
let dragged = null;
document.addEventListener("dragstart", (event) => {
  dragged = event.target.closest?.(".card") ?? null;
  if (dragged) event.dataTransfer.setData("text/plain", dragged.dataset.id);
});
const target = (event) => {
  const card = event.target.closest?.(".card");
  return dragged && card && card !== dragged && !card.classList.contains("dropped") ? card : null;
};
document.addEventListener("dragover", (event) => {
  for (const other of $$(".card.over")) other.classList.remove("over");
  const card = target(event);
  if (card) { event.preventDefault(); card.classList.add("over"); }
});
document.addEventListener("drop", (event) => {
  const card = target(event);
  if (card) { event.preventDefault(); merge([idOf(card), idOf(dragged)]); }
});
document.addEventListener("dragend", () => { dragged = null; for (const card of $$(".card.over")) card.classList.remove("over"); });

onRefresh(showPicked);
