// The queue: one label at a time, beside its image at native size.

import { $, $$, change, onRefresh, refresh, seen, send, tell, typing } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
const make = (name, attributes) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

let unit = null; // as /units/ROW.json tells
let fix = null; // {points, box, mask, cross} while a mask is being fixed
let turn = Promise.resolve(); // decisions one after the other, however fast the keys
let zoom = 0; // screen pixels per pixel; 0: 1, or 2 where the picture is small

async function open(row) {
  fix = null;
  const response = await fetch(`/units/${row}.json`);
  if (!response.ok) return tell("That label cannot be shown.");
  unit = await response.json();
  for (const button of $$(".unit")) button.toggleAttribute("aria-current", Number(button.dataset.row) === row);
  $(`#unit-${row}`)?.scrollIntoView({ block: "nearest" });
  draw();
  $("#unit-title").textContent = unit.class;
  const quality = unit.quality === null ? "quality unknown" : `expected IoU ${unit.quality.toFixed(2)}`;
  $("#unit-facts").textContent = `${quality} · ${unit.area} px · ${unit.name}${unit.decided ? ` · ${unit.decided}ed` : ""}`;
  $("#unit-reasons").textContent = unit.reasons;
  if (unit.class_id !== null) $("#class").value = unit.class_id;
  $("#fix-note").textContent = "";
  lookAhead();
}

// The server looks at the label's window while a person does, so that the first click is answered at once.
let looking;
function lookAhead() {
  clearTimeout(looking);
  const body = JSON.stringify({ row: unit.row });
  looking = setTimeout(() => fetch("/api/prompt", { method: "POST", headers: { "content-type": "application/json" }, body }).then((answer) => answer.text()).catch(() => {}), 200);
}

function draw() {
  const [, , width, height] = unit.window;
  const by = zoom || (width <= 400 ? 2 : 1);
  const picture = make("svg", { viewBox: `0 0 ${width} ${height}`, width: width * by, height: height * by, role: "img", "aria-label": `${unit.class} in ${unit.name}` });
  picture.append(make("image", { href: `/units/${unit.row}.jpg`, width, height }));
  const kept = fix?.outline;
  if (unit.outline && !kept) {
    picture.append(make("path", { d: unit.outline, class: "halo" }), make("path", { d: unit.outline, class: "edge", "fill-rule": "evenodd" }));
  }
  if (kept) picture.append(make("path", { d: kept, class: "halo" }), make("path", { d: kept, class: "fresh", "fill-rule": "evenodd" }));
  for (const [x, y, label] of fix?.points ?? []) {
    picture.append(make("circle", { cx: x - unit.window[0], cy: y - unit.window[1], r: 4, class: label ? "yes" : "no" }));
  }
  if (fix?.drag) {
    const [x0, y0, x1, y1] = fix.drag;
    picture.append(make("rect", { x: Math.min(x0, x1), y: Math.min(y0, y1), width: Math.abs(x1 - x0), height: Math.abs(y1 - y0), class: "drag" }));
  }
  if (fix?.cross) {
    const [x, y] = fix.cross;
    picture.append(make("path", { d: `M${x - 12} ${y}H${x + 12}M${x} ${y - 12}V${y + 12}`, class: "cross" }));
  }
  const old = $("#stage svg");
  if (old && old.dataset.row === String(unit.row) && old.getAttribute("width") === picture.getAttribute("width")) old.replaceChildren(...picture.childNodes); // keeps the pointer's capture
  else { picture.dataset.row = unit.row; $("#stage").replaceChildren(picture); }
  $("#stage").classList.toggle("fixing", !!fix);
  $("#fix").setAttribute("aria-pressed", String(!!fix));
  $("#keep").hidden = $("#add").hidden = !fix?.mask;
}

function progress(answer) {
  $("#progress").textContent = `${answer.decided} of ${answer.total} decided · ${(100 * answer.sure).toFixed(1)} % of the labelled area is sure`;
  $("#bar").value = answer.decided;
}

const decide = (...what) => { turn = turn.then(() => decideNow(...what)); };

async function decideNow(decision, values = {}) {
  if (!unit) return;
  const answer = await send("/api/verdict", { row: unit.row, decision, seen: seen(), ...values });
  if (!answer) return;
  progress(answer);
  const done = $(`#unit-${unit.row}`)?.closest("li");
  const next = done?.nextElementSibling ?? done?.previousElementSibling;
  done?.remove();
  const button = next && $(".unit", next);
  if (button) await open(Number(button.dataset.row));
  else await refresh();
}

function step(by) {
  const all = $$(".unit");
  const at = all.findIndex((button) => button.hasAttribute("aria-current"));
  const next = all[Math.min(Math.max(at + by, 0), all.length - 1)];
  if (next) open(Number(next.dataset.row));
}

// ---- fixing a mask
function startFix() {
  if (!unit) return;
  fix = fix ? null : { points: [], box: null, mask: "", outline: "", cross: null };
  draw();
  $("#fix-note").textContent = fix ? "Click on the object or drag a box; Shift: not this. Enter keeps, Esc forgets." : "";
  if (fix) $("#stage").focus({ preventScroll: true });
}

async function prompt() {
  const answer = await send("/api/prompt", { row: unit.row, points: fix.points, box: fix.box });
  if (!fix) return;
  if (answer) {
    Object.assign(fix, { mask: answer.mask, outline: answer.outline });
    $("#fix-note").textContent = `${answer.area} px, expected IoU ${answer.expected}, ${answer.ms} ms. Enter keeps it in place of this label, + adds it beside with the class chosen.`;
  } else fix.points.pop();
  draw();
}

function place(event) {
  const picture = $("#stage svg");
  const matrix = picture.getScreenCTM().inverse();
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
  return [at.x, at.y];
}
const toScene = ([x, y]) => [x + unit.window[0], y + unit.window[1]];

let pressed = null;
document.addEventListener("pointerdown", (event) => {
  if (!fix || !event.target.closest("#stage svg") || event.button > 0) return;
  event.preventDefault();
  pressed = place(event);
});
document.addEventListener("pointermove", (event) => {
  if (!fix || !pressed) return;
  const at = place(event);
  if (Math.hypot(at[0] - pressed[0], at[1] - pressed[1]) > 5) { fix.drag = [...pressed, ...at]; draw(); }
});
document.addEventListener("pointerup", (event) => {
  if (!fix || !pressed) return;
  const from = pressed;
  pressed = null;
  if (fix.drag) {
    const [x0, y0, x1, y1] = fix.drag;
    const low = toScene([Math.min(x0, x1), Math.min(y0, y1)]);
    const high = toScene([Math.max(x0, x1), Math.max(y0, y1)]);
    fix.box = [...low, ...high];
    fix.drag = null;
    fix.points = [];
  } else fix.points.push([...toScene(from), event.shiftKey ? 0 : 1]);
  prompt();
});

function fixKey(event) {
  const [, , width, height] = unit.window;
  const by = event.shiftKey ? 1 : 8;
  const moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] };
  if (event.key === "Enter") { event.preventDefault(); if (fix.mask) keep(); return true; }
  if (event.key === "Escape") { startFix(); return true; }
  if (event.key === "+") { add(); return true; }
  if (event.key === " ") {
    event.preventDefault();
    fix.points.push([...toScene(fix.cross ?? [width / 2, height / 2]), event.shiftKey ? 0 : 1]);
    prompt();
    return true;
  }
  if (!(event.key in moves)) return false;
  event.preventDefault();
  const [x, y] = fix.cross ?? [width / 2, height / 2];
  const [dx, dy] = moves[event.key];
  fix.cross = [Math.min(Math.max(x + dx, 0), width - 1), Math.min(Math.max(y + dy, 0), height - 1)];
  draw();
  return true;
}

// A mask beside this label, with the class that is chosen: what lies there and is something else. The label stays open.
function add() {
  turn = turn.then(async () => {
    if (!fix?.mask) return;
    const class_id = Number($("#class").value);
    const answer = await send("/api/verdict", { row: unit.row, decision: "add", mask: fix.mask, class_id, seen: seen() });
    if (!answer) return;
    await open(unit.row);
    startFix();
    $("#class").value = class_id;
  });
}
const keep = () => decide("fix", { mask: fix.mask, class_id: Number($("#class").value) });

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.matches(".unit")) open(Number(button.dataset.row));
  if (button.id === "accept") decide("accept");
  if (button.id === "reject") decide("reject");
  if (button.id === "fix") startFix();
  if (button.id === "keep") keep();
  if (button.id === "add") add();
  if (button.id === "set-class") decide("class", { class_id: Number($("#class").value) });
});
document.addEventListener("submit", async (event) => {
  if (event.target.id !== "new-class") return;
  event.preventDefault();
  const row = unit?.row;
  if (await change("/api/classes", { action: "new", name: $("#new-name").value }) && row !== undefined) await open(row);
});
document.addEventListener("change", (event) => {
  if (event.target.id === "sort") event.target.form.requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.target.id === "class" && event.key === "Enter" && !fix) {
    event.preventDefault();
    decide("class", { class_id: Number(event.target.value) });
    event.target.blur();
    return;
  }
  if (!unit || typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (fix && fixKey(event)) return;
  if (event.key === "a") decide("accept");
  else if (event.key === "x") decide("reject");
  else if (event.key === "f") startFix();
  else if (event.key === "c") $("#class").focus();
  else if (event.key === "z") { zoom = ((zoom || (unit.window[2] <= 400 ? 2 : 1)) % 4) + 1; draw(); }
  else if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
});

function begin() {
  unit = null;
  const first = $(".unit");
  if (first) open(Number(first.dataset.row));
}
onRefresh(begin);
begin();
