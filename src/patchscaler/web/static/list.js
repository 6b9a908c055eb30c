// The pictures as a list: state, progress and result of each, and what can be done with it.

import { ACTIVE } from "./queue.js";
import { drawThumbnail } from "./thumbnail.js";
import { standing } from "./words.js";

const rows = new Map(); // item -> its <li>
const list = document.getElementById("rows");

// `does`: functions select(item), retry(item), cancel(item), remove(item), which the page gives.
export function listItems(items, does) {
  for (const [item, row] of rows) {
    if (!items.includes(item)) {
      row.remove();
      rows.delete(item);
    }
  }
  for (const item of items) if (!rows.has(item)) rows.set(item, make(item, does));
}

function make(item, does) {
  const row = document.getElementById("row").content.firstElementChild.cloneNode(true);
  const { name } = item.file;
  row.querySelector(".name").textContent = name;
  row.querySelector("progress").setAttribute("aria-label", `Progress of ${name}`);
  for (const act of ["download", "retry", "cancel", "remove"]) {
    const button = row.querySelector(`.${act}`);
    button.setAttribute("aria-label", `${button.textContent.trim() || button.title} ${name}`);
  }
  row.querySelector(".show").addEventListener("click", () => does.select(item));
  for (const act of ["retry", "cancel", "remove"]) {
    row.querySelector(`.${act}`).addEventListener("click", () => does[act](item));
  }
  row.querySelector(".download").addEventListener("click", () => (item.saved = true));
  list.append(row);
  return row;
}

export function draw(item, selected, reachable) {
  const row = rows.get(item);
  if (!row) return;
  const active = ACTIVE.includes(item.state);
  row.dataset.state = item.state;
  row.querySelector(".show").setAttribute("aria-current", selected);
  row.querySelector(".text").textContent = standing(item, reachable);
  const bar = row.querySelector("progress");
  bar.hidden = !active || item.state === "waiting";
  if (item.state === "sending") bar.value = item.progress;
  else if (item.state === "running") bar.value = item.status.progress;
  else bar.value = 0;
  row.querySelector(".cancel").hidden = !active;
  row.querySelector(".remove").hidden = active;
  row.querySelector(".retry").hidden = item.refused || !["failed", "cancelled"].includes(item.state);
  const link = row.querySelector(".download");
  link.hidden = item.state !== "done";
  if (item.url) {
    link.href = item.url;
    link.download = `${item.file.name.replace(/\.[^.]*$/, "")}_x${Number(item.options.scale)}.${item.options.format}`;
  } else link.removeAttribute("href");
  drawThumbnail(row.querySelector("canvas"), item.thumbnail);
}

export const downloadLink = (item) => rows.get(item).querySelector(".download");
export const showButton = (item) => rows.get(item).querySelector(".show");
