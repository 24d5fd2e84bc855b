// What every page needs: changes with the version that was seen, undo and redo, keys, light and dark.

const root = document.documentElement;
export const $ = (selector, within = document) => within.querySelector(selector);
export const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

let listeners = [];
export const onRefresh = (listener) => listeners.push(listener);
export const seen = () => Number(root.dataset.version);

let fading;
export function tell(text) {
  const box = $("#alert");
  box.textContent = text; // text, never markup
  clearTimeout(fading);
  fading = setTimeout(() => { box.textContent = ""; }, 8000);
}

export function show(status) {
  if (status.version === undefined) return;
  root.dataset.version = status.version;
  for (const word of ["undo", "redo"]) {
    const button = $(`#${word}`);
    button.disabled = !status[word];
    button.title = status[word];
  }
  $("#undo .said").textContent = ` ${status.undo.slice(0, 60)}`;
  const { active, stage, done, total } = status.writing;
  $("#pending").textContent = active ? `Painting: ${stage} ${done} of ${total}`
    : status.pending ? `${status.pending} changes kept, labels not painted yet` : "Labels show every change";
  $("#write").disabled = active || !status.pending;
  if (status.error) tell(status.error);
}

// Ask for a change. Returns the answer, or null when it was refused; then the reason is on the page.
export async function send(address, body = {}) {
  let answer;
  try {
    const response = await fetch(address, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    answer = await response.json();
    if (!response.ok) {
      tell(answer.error);
      if (response.status === 409) await refresh();
      return null;
    }
  } catch {
    tell("The server does not answer: is `terralabel review` still running? Nothing was changed.");
    return null;
  }
  show(answer);
  return answer;
}

// Load this page again and put its content in place; what has the focus keeps it, with what is being typed.
let replacing = false;
export const isReplacing = () => replacing;
export async function refresh() {
  root.dataset.loading = "yes"; // for tests
  const response = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!response.ok) return tell("This page cannot be loaded again.");
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  const active = document.activeElement;
  const holder = active?.closest?.("[id]");
  const typed = active?.matches?.("input.name") && active.value !== active.defaultValue ? active.value : null;
  replacing = true;
  for (const id of ["content", "status"]) {
    if (id === "content" && $("#content").dataset.live) continue;
    $(`#${id}`).replaceChildren(...document.adoptNode($(`#${id}`, fresh)).childNodes);
  }
  root.dataset.version = fresh.documentElement.dataset.version;
  const again = holder && document.getElementById(holder.id);
  if (again && active.matches("input.name")) {
    const box = $("input.name", again);
    box?.focus({ preventScroll: true });
    if (box && typed !== null) box.value = typed;
  } else if (again && holder.id !== "content") again.focus({ preventScroll: true });
  replacing = false;
  for (const listener of listeners) listener();
  delete root.dataset.loading;
}

export async function change(address, body) {
  const answer = await send(address, { seen: seen(), ...body });
  if (answer) await refresh();
  return answer;
}

async function back(word) {
  if (!$(`#${word}`).disabled) await change(`/api/${word}`, {});
}

async function write() {
  const answer = await send("/api/write");
  while (answer) {
    await new Promise((resolve) => setTimeout(resolve, 700));
    const status = await (await fetch("/state.json")).json();
    show(status);
    if (!status.writing.active) { await refresh(); return; }
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "undo" || button.id === "redo") back(button.id);
  if (button.id === "write") write();
  if (button.id === "help") $("#keys").showModal();
  if (button.id === "theme") {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
  }
});

export const typing = (event) => event.target.closest("input:not([type=checkbox]):not([type=range]), select, textarea, dialog");

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || typing(event)) return;
  const control = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (control && key === "z") { event.preventDefault(); back(event.shiftKey ? "redo" : "undo"); return; }
  if (control && key === "y") { event.preventDefault(); back("redo"); return; }
  if (control || event.altKey) return;
  if (key === "u") back("undo");
  else if (key === "r") back("redo");
  else if (key === "w") write();
  else if (key === "?") $("#keys").showModal();
});

const theme = localStorage.getItem("theme");
if (theme === "dark" || theme === "light") root.dataset.theme = theme;
