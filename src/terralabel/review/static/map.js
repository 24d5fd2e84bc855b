// The map of one scene: imagery and labels as tiles, in pixels of the scene; (x, y) is [lng, lat] with y downwards.

import { $, onRefresh, show, tell, typing } from "./page.js";

const L = window.L;
const index = Number($("#map-page").dataset.scene);
$("#content").dataset.live = "yes"; // a change reloads the labels, not the page
let about = await (await fetch(`/map/${index}.json`)).json();
const hidden = new Set((new URLSearchParams(location.search).get("hide") ?? "").split(",").filter(Boolean).map(Number));

const scale = 2 ** -about.levels; // one pixel is one unit at the native zoom
const crs = L.extend({}, L.CRS.Simple, { transformation: new L.Transformation(scale, 0, scale, 0) });
const bounds = [[0, 0], [about.height, about.width]];
const map = L.map("map", {
  crs, maxZoom: about.levels + 5, minZoom: Math.min(0, about.levels - 8), attributionControl: false, zoomSnap: 0.5,
  fadeAnimation: false, maxBounds: [[-about.height / 2, -about.width / 2], [about.height * 1.5, about.width * 1.5]],
});
const tiles = { tileSize: 256, minNativeZoom: 0, maxNativeZoom: about.levels, minZoom: -8, maxZoom: about.levels + 5, noWrap: true, bounds };
L.tileLayer(`/tiles/${index}/image/{z}/{x}/{y}.jpg`, tiles).addTo(map);
const address = () => `/tiles/${index}/labels/{z}/{x}/{y}.png?v=${about.version}-${about.settled ?? about.pending}&hide=${[...hidden].join(",")}`;
const labels = L.tileLayer(address(), { ...tiles, opacity: 0.55, className: "labels" }).addTo(map);

// ---- where: a link leads to the same view
function goTo() {
  const [x, y, z] = location.hash.slice(1).split("/").map(Number);
  if ([x, y, z].every(Number.isFinite)) map.setView([y, x], z);
  else map.fitBounds(bounds, { animate: false });
}
goTo();
addEventListener("hashchange", goTo);
map.on("moveend", () => {
  const { lat, lng } = map.getCenter();
  const query = hidden.size ? `?hide=${[...hidden].join(",")}` : location.pathname;
  history.replaceState(null, "", `${query}#${Math.round(lng)}/${Math.round(lat)}/${map.getZoom()}`);
});

// ---- what is here
let asked = 0;
let waiting;
map.on("mousemove", ({ latlng }) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => look(latlng), 80);
});
map.on("moveend", () => look(map.getCenter()));
async function look({ lat, lng }) {
  const mine = ++asked;
  const response = await fetch(`/at/${index}.json?x=${lng.toFixed(2)}&y=${lat.toFixed(2)}`);
  if (!response.ok || mine !== asked) return;
  const found = await response.json();
  const parts = [found.class ? found.class.name : "no label", `column ${found.x}, row ${found.y}`];
  if (found.map) parts.push(found.map.map((v) => v.toFixed(2)).join(", "));
  if (found.lonlat) parts.push(`${found.lonlat[1].toFixed(6)}°, ${found.lonlat[0].toFixed(6)}°`);
  $("#place").textContent = parts.join(" · ");
}

look(map.getCenter());

// ---- the legend
const svg = (name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};
function legend() {
  const rows = about.classes.map((entry) => {
    const item = document.createElement("li");
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !hidden.has(entry.id);
    box.dataset.id = entry.id;
    const swatch = svg("svg", { class: "swatch", viewBox: "0 0 10 10", "aria-hidden": "true" });
    swatch.append(svg("rect", { width: 10, height: 10, fill: entry.color }));
    const name = document.createElement("bdi");
    name.textContent = entry.name;
    const share = document.createElement("span");
    share.className = "soft";
    share.textContent = entry.share === null ? "" : `${(100 * entry.share).toFixed(1)} %`;
    label.append(box, swatch, name, share);
    item.append(label);
    return item;
  });
  $("#legend").replaceChildren(...rows);
  $("#mixed").textContent = about.mixed.length ? `Parts of ${about.mixed.join(", ")} moved to other classes: “Paint labels” shows them.` : "";
}
legend();
$("#legend").addEventListener("change", ({ target }) => {
  const id = Number(target.dataset.id);
  if (target.checked) hidden.delete(id); else hidden.add(id);
  labels.setUrl(address());
});

// ---- the tiles of the run
const grid = L.layerGroup();
let gridLoaded = false;
async function showGrid(on) {
  if (on && !gridLoaded) {
    gridLoaded = true;
    const found = await (await fetch(`/grid/${index}.json`)).json();
    for (const tile of found.tiles) {
      const failed = tile.status === "failed";
      const color = failed ? "#e11d1d" : tile.status === "ok" ? "#ffffff" : "#9aa4ae";
      const box = L.rectangle([[tile.y, tile.x], [tile.y + tile.height, tile.x + tile.width]], { color, weight: failed ? 3 : 1, fillOpacity: failed ? 0.25 : 0 });
      const note = document.createElement("span");
      note.textContent = tile.status + (tile.reason ? `: ${tile.reason}` : "");
      box.bindTooltip(note).addTo(grid);
    }
  }
  if (on) grid.addTo(map); else grid.remove();
}
$("#grid").addEventListener("change", ({ target }) => showGrid(target.checked));

const opacity = $("#opacity");
const setOpacity = (value) => { opacity.value = value; labels.setOpacity(opacity.value / 100); };
opacity.addEventListener("input", () => setOpacity(opacity.value));
let before = 55;
document.addEventListener("keydown", (event) => {
  if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "[") setOpacity(Number(opacity.value) - 10);
  else if (event.key === "]") setOpacity(Number(opacity.value) + 10);
  else if (event.key === "l") { if (Number(opacity.value)) { before = opacity.value; setOpacity(0); } else setOpacity(before); }
  else if (event.key === "g") $("#grid").click();
  else if (event.key === "," && $("#before")) $("#before").click();
  else if (event.key === "." && $("#next")) $("#next").click();
});

onRefresh(async () => {
  const response = await fetch(`/map/${index}.json`);
  if (!response.ok) return tell("This scene cannot be loaded again.");
  about = await response.json();
  show(about);
  legend();
  labels.setUrl(address());
});
window.reviewMap = map; // for tests and the console
