// The picture that is looked at: before and after, the slider between them, zoom, and the map of the patches.

import { percent } from "./words.js";

const SHOWN_PIXELS = 24e6; // larger results are shown as the server's last preview, to spare small devices
const KEY_STEP = 2; // per cent that an arrow key moves the slider

const part = (name) => document.getElementById(name);

let item; // what is shown, and
let shown = {}; // what of it: before (a blob), after (a url or blob), map

// Show a picture as far as it has come.
export function show(next) {
  if (next !== item) {
    zoom(false);
    shown = {};
    for (const name of ["before", "after"]) part(name).removeAttribute("src"); // the other picture's
  }
  item = next;
  if (!item) return;
  if (shown.before !== item.source) {
    shown.before = item.source;
    swap(part("before"), item.source ?? "");
  }
  const whole = item.result && item.options.format !== "tif" && pixels(item.status.output) <= SHOWN_PIXELS;
  const after = (item.state === "done" && (whole ? item.result : item.last)) || item.preview || item.source;
  if (shown.after !== after) {
    shown.after = after;
    swap(part("after"), after ?? "");
  }
  const map = item.map?.boxes && item.map;
  if (shown.map !== map) {
    shown.map = map;
    if (map) drawMap(map, item.status.output);
    else part("map").width = 0;
    part("show-map").disabled = !map;
    part("legend").hidden = !map;
  }
  part("frame").hidden = !after; // a format that this browser can't show, until the server does
  layOut();
}

const pixels = ({ height, width }) => height * width;

// `image` shows a blob or URL as soon as it is decoded, so that nothing flickers, unless a later one was faster.
async function swap(image, source) {
  const mine = item;
  const number = (image.asked = (image.asked ?? 0) + 1);
  const blob = source instanceof Blob;
  const url = blob ? URL.createObjectURL(source) : source;
  image.classList.toggle("nothing", !url);
  const next = new Image();
  next.src = url;
  await next.decode().catch(() => {}); // a preview that is overtaken, or a server that has gone
  if (!next.naturalWidth || item !== mine || number < (image.drawn ?? 0)) {
    if (blob) URL.revokeObjectURL(url);
    return;
  }
  image.src = url;
  if (image.owned) URL.revokeObjectURL(image.owned);
  Object.assign(image, { drawn: number, owned: blob ? url : undefined });
  layOut();
}

function outputSize() {
  const before = part("before");
  return item?.status?.output ?? { width: 4 * before.naturalWidth, height: 4 * before.naturalHeight };
}

function layOut() {
  const { width, height } = outputSize();
  if (!width || !height) return;
  const frame = part("frame");
  const room = 0.68 * window.innerHeight;
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.width = document.body.classList.contains("zoomed")
    ? `${width / window.devicePixelRatio}px`
    : `min(100%, ${Math.max(width, 480)}px, ${(room * width) / height}px)`;
}

function zoom(on) {
  document.body.classList.toggle("zoomed", on);
  part("zoom").setAttribute("aria-pressed", on);
  const scroll = part("scroll");
  scroll.tabIndex = on ? 0 : -1; // arrow keys scroll it
  layOut();
  scroll.scrollTo((scroll.scrollWidth - scroll.clientWidth) / 2, (scroll.scrollHeight - scroll.clientHeight) / 2);
}

function drawMap({ names, colours, counts, groups, boxes }, { width, height }) {
  const canvas = part("map");
  [canvas.width, canvas.height] = [Math.ceil(width / 4), Math.ceil(height / 4)];
  const context = canvas.getContext("2d");
  // Patches overlap; each is painted up to the middle between its centre and the next one's.
  const rows = borders(boxes.map(([top, , high]) => top + high / 2), height, canvas.height);
  const columns = borders(boxes.map(([, left, , wide]) => left + wide / 2), width, canvas.width);
  boxes.forEach(([top, left, high, wide], index) => {
    const [y, bottom] = rows.get(top + high / 2);
    const [x, right] = columns.get(left + wide / 2);
    context.fillStyle = colours[groups[index]];
    context.fillRect(x, y, right - x, bottom - y);
  });
  part("legend").replaceChildren(...names.map((name, index) => {
    const entry = document.createElement("li");
    entry.style.setProperty("--colour", colours[index]);
    entry.textContent = `${name} ${percent(counts[index] / groups.length)}`;
    return entry;
  }));
}

// centre -> [start, end] in the map's whole pixels, for the distinct centres along a side
function borders(centres, length, steps) {
  const sorted = [...new Set(centres)].sort((a, b) => a - b);
  const between = [0, ...sorted.slice(1).map((centre, index) => (centre + sorted[index]) / 2), length];
  const whole = between.map((place) => Math.round((place * steps) / length));
  return new Map(sorted.map((centre, index) => [centre, [whole[index], whole[index + 1]]]));
}

function listenToSlider() {
  const frame = part("frame");
  const handle = part("handle");
  let at = 50;
  const move = (place) => {
    at = Math.min(100, Math.max(0, place));
    frame.style.setProperty("--at", `${at}%`);
    handle.setAttribute("aria-valuenow", Math.round(at));
    handle.setAttribute("aria-valuetext", `${Math.round(at)} per cent before`);
  };
  const follow = (event) => {
    const box = frame.getBoundingClientRect();
    move((100 * (event.clientX - box.left)) / box.width);
  };
  frame.addEventListener("pointerdown", (event) => {
    const zoomed = document.body.classList.contains("zoomed");
    if (zoomed && !handle.contains(event.target)) return; // there a finger scrolls
    event.preventDefault();
    handle.focus({ preventScroll: true });
    frame.setPointerCapture(event.pointerId);
    follow(event);
    frame.addEventListener("pointermove", follow);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    frame.addEventListener(end, () => frame.removeEventListener("pointermove", follow));
  }
  handle.addEventListener("keydown", (event) => {
    const places = {
      ArrowLeft: at - KEY_STEP, ArrowDown: at - KEY_STEP, ArrowRight: at + KEY_STEP, ArrowUp: at + KEY_STEP,
      PageDown: at - 10, PageUp: at + 10, Home: 0, End: 100,
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    move(places[event.key]);
  });
}

listenToSlider();
part("show-map").addEventListener("click", (event) => {
  event.currentTarget.setAttribute("aria-pressed", document.body.classList.toggle("mapped"));
});
part("zoom").addEventListener("click", () => zoom(!document.body.classList.contains("zoomed")));
window.addEventListener("resize", layOut);
