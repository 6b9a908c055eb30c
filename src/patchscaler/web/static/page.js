// The page: takes pictures by click, drop and paste, and lets list and viewer show what the queue does.

import { downloadLink, draw, listItems, showButton } from "./list.js";
import { ACTIVE, Queue } from "./queue.js";
import { thumbnailOf } from "./thumbnail.js";
import { show } from "./viewer.js";
import { limits, pictures } from "./words.js";

const SAVE_PAUSE = 400; // ms between two downloads: browsers drop those that come at once

const part = (name) => document.getElementById(name);
const queue = new Queue({ changed, listed, reached, said });
let selected; // the item that the viewer shows

function changed(item) {
  draw(item, item === selected, queue.reachable !== false);
  if (item === selected) show(item);
  summarize();
}

function listed() {
  listItems(queue.items, { select, retry: (item) => queue.again(item), cancel: (item) => queue.cancel(item), remove });
  if (!queue.items.includes(selected)) select(queue.items.at(-1));
  queue.items.forEach((item) => draw(item, item === selected, queue.reachable !== false));
  summarize();
}

function summarize() {
  const { items } = queue;
  const done = items.filter((item) => item.state === "done");
  const active = items.filter((item) => ACTIVE.includes(item.state));
  document.body.dataset.state = selected?.state ?? "empty";
  part("queue-title").textContent = items.length > 1 ? `Your pictures: ${done.length} of ${items.length} done` : "Your picture";
  part("save-all").hidden = done.length < 2;
  part("cancel-all").hidden = active.length < 2;
  part("again").hidden = !selected || selected.refused || ACTIVE.includes(selected.state);
}

function reached(reachable) {
  const alarm = part("alarm");
  alarm.hidden = reachable;
  alarm.textContent = reachable ? "" : alarmText();
  if (queue.about) {
    const { formats, megapixels, megabytes } = limits(queue.about);
    part("limits").textContent = `${formats}, up to ${megapixels} and ${megabytes} each`;
  }
  queue.items.forEach(changed);
}

function alarmText() {
  const rest = queue.items.length ? " Your pictures are kept in this page, which goes on by itself as soon as the server is back." : "";
  return `The server does not answer.${rest}`;
}

// Read out, for those who do not see the list. An empty text between two makes sure that the same one is read again.
function said(text) {
  part("said").textContent = "";
  setTimeout(() => (part("said").textContent = text), 100);
}

function select(item) {
  const before = selected;
  selected = item;
  show(item);
  if (before) changed(before);
  if (item) changed(item);
  else summarize();
}

function remove(item) {
  const place = queue.items.indexOf(item);
  queue.remove(item);
  const next = queue.items[Math.min(place, queue.items.length - 1)];
  (next ? showButton(next) : part("file")).focus({ preventScroll: true }); // where the removed row was
}

// Sliders say their value; one that is left to the server is neither moved nor sent.
function drawSliders() {
  for (const slider of part("options").querySelectorAll("[type=range]")) {
    slider.disabled = part(`${slider.id}-automatic`)?.checked ?? false;
    slider.nextElementSibling.value = slider.disabled ? "" : slider.value;
  }
}

function options() {
  return Object.fromEntries(new FormData(part("options")));
}

async function take(files) {
  const chosen = [...files];
  if (!chosen.length || !part("options").reportValidity()) return;
  const settings = options();
  const items = [];
  for (const file of chosen) {
    items.push(queue.add(file, settings, await thumbnailOf(file), await problemOf(file)));
  }
  select(items[0]);
  if (items.length > 1) said(`${pictures(items.length)} added.`);
  if (document.activeElement === document.body || document.activeElement === part("file")) {
    showButton(items[0]).focus({ preventScroll: true });
  }
}

// Why a file can't be sent at all.
async function problemOf(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    return "This can't be read. A folder? Choose the pictures in it.";
  }
  return file.size ? "" : "This file is empty.";
}

function listen() {
  const input = part("file");
  input.addEventListener("change", async () => {
    await take(input.files);
    input.value = ""; // so that the same picture can be chosen again
  });
  part("more").addEventListener("click", () => input.click());
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return; // a text, for a field
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    document.body.classList.remove("over");
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData?.files ?? []));
  part("options").addEventListener("input", drawSliders);
  part("options").addEventListener("submit", (event) => event.preventDefault());
  part("again").addEventListener("click", () => {
    if (part("options").reportValidity()) queue.again(selected, options());
  });
  part("cancel-all").addEventListener("click", () => {
    queue.items.filter((item) => ACTIVE.includes(item.state)).forEach((item) => queue.cancel(item));
  });
  part("save-all").addEventListener("click", async () => {
    for (const item of queue.items.filter(({ state }) => state === "done")) {
      downloadLink(item).click();
      await new Promise((resolve) => setTimeout(resolve, SAVE_PAUSE));
    }
  });
  window.addEventListener("beforeunload", (event) => {
    const lost = ({ state, saved }) => ACTIVE.includes(state) || (state === "done" && !saved);
    if (queue.items.some(lost)) event.preventDefault();
  });
  window.addEventListener("pagehide", () => queue.leave());
}

listen();
listed();
drawSliders(); // after a reload browsers fill in what was chosen before
