// The stage of the page: takes a picture, sends it to the API, follows its job, shows previews, result and map.

const STAGES = {
  restore: "Restoring the whole picture",
  prompt: "Looking up textures",
  sample: "Refining patch by patch",
  decode: "Drawing the result",
  colour: "Matching the colours",
  write: "Saving",
};
const SHOWN_PIXELS = 24e6; // larger results are shown as the server's preview, to spare small devices
const KEY_STEP = 2; // per cent that an arrow key moves the slider

let root; // the <section class="ps">
let about; // limits of the server
let file; // what the user chose
let fileUrl;
let job; // {id, events, preview, hasMap, status} of the job at work or finished
let upload; // XMLHttpRequest while the picture is sent

const part = (name) => root.querySelector(`.ps-${name}`);
const outside = (name) => document.getElementById(`ps-${name}`);

export async function start(element) {
  root = element.querySelector(".ps");
  // gradio builds the side after the stage.
  while (!outside("run") || !outside("note")?.firstElementChild) await new Promise(requestAnimationFrame);
  listen();
  setState("empty");
  window.patchscaler = { enlarge, cancel };
  fetch("api/about").then((answer) => answer.json()).then((answer) => {
    about = answer;
    const megapixels = (about.max_pixels / 1e6).toLocaleString();
    const megabytes = Math.floor(about.max_bytes / 2 ** 20).toLocaleString();
    part("limits").textContent = `JPEG, PNG, WebP, TIFF and more, up to ${megapixels} megapixels and ${megabytes} MB`;
    const minutes = Math.max(1, Math.round(about.keep_seconds / 60));
    outside("note").querySelector(".ps-note").textContent =
      `Your picture is deleted from the server when you leave this page, or ${minutes} min after it is done.`;
  });
}

function setState(state) {
  root.dataset.state = state;
  document.body.dataset.ps = state;
  outside("run").textContent = state === "done" ? "Enlarge again" : "Enlarge";
  outside("result").querySelector(".ps-download").hidden = state !== "done";
}

function say(text, { time = "", progress = null } = {}) {
  part("text").textContent = text;
  part("time").textContent = time;
  const bar = part("bar");
  if (progress === null) bar.removeAttribute("value");
  else bar.value = progress;
}

// The picture that the user brings

function listen() {
  const input = part("file");
  input.addEventListener("change", () => choose(input.files[0]));
  root.addEventListener("dragover", (event) => {
    event.preventDefault();
    root.classList.add("ps-over");
  });
  root.addEventListener("dragleave", (event) => {
    if (!root.contains(event.relatedTarget)) root.classList.remove("ps-over");
  });
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("ps-over");
    choose(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => choose(event.clipboardData?.files[0]));
  let left = false;
  window.addEventListener("pagehide", () => {
    left = Boolean(job ?? upload);
    forget();
  });
  window.addEventListener("pageshow", () => {
    if (left) fail("Deleted when you left the page. Enlarge it again if you like.");
    left = false;
  });
  part("new").addEventListener("click", () => {
    forget();
    input.value = "";
    file = undefined;
    setState("empty");
  });
  part("show-map").addEventListener("click", (event) => {
    event.currentTarget.setAttribute("aria-pressed", root.classList.toggle("ps-mapped"));
  });
  part("zoom").addEventListener("click", () => zoom(!root.classList.contains("ps-zoomed")));
  part("before").addEventListener("load", layOut);
  part("before").addEventListener("error", () => root.classList.add("ps-unshown"));
  window.addEventListener("resize", layOut);
  listenToSlider();
}

function choose(chosen) {
  if (!chosen) return;
  forget();
  file = chosen;
  URL.revokeObjectURL(fileUrl);
  fileUrl = URL.createObjectURL(file);
  root.classList.remove("ps-unshown");
  zoom(false);
  part("before").src = part("after").src = fileUrl;
  if (about && file.size > about.max_bytes) {
    fail(`This file has ${(file.size / 2 ** 20).toFixed(1)} MB; ${Math.floor(about.max_bytes / 2 ** 20)} MB are allowed.`);
    return;
  }
  outside("run").click(); // gradio hands the settings to enlarge()
}

// A job

function enlarge(quality, seed, format, scale) {
  if (!file) {
    part("file").click();
    return;
  }
  forget();
  clearMap();
  part("after").src = fileUrl;
  setState("busy");
  say("Sending the picture", { progress: 0 });
  const query = new URLSearchParams({ quality, seed: seed ?? 0, format, scale });
  upload = new XMLHttpRequest();
  upload.open("POST", `api/jobs?${query}`);
  upload.responseType = "json";
  upload.upload.onprogress = (event) => say("Sending the picture", { progress: event.loaded / (event.total || 1) });
  upload.onload = () => {
    const { status, response } = upload;
    upload = undefined;
    if (status === 202) follow(response);
    else fail(sentence(response?.detail ?? `The server answered ${status}`));
  };
  upload.onerror = () => fail("The server cannot be reached. Is it still running?");
  upload.send(file);
}

function follow(status) {
  job = { id: status.id, preview: 0, hasMap: false };
  const mine = job;
  if (root.classList.contains("ps-unshown")) {
    part("before").src = part("after").src = `api/jobs/${job.id}/input`;
    root.classList.remove("ps-unshown");
  }
  show(status);
  job.events = new EventSource(`api/jobs/${job.id}/events`);
  job.events.addEventListener("status", (event) => {
    if (job === mine) show(JSON.parse(event.data));
  });
  job.events.onerror = () => {
    if (job === mine && mine.events.readyState === EventSource.CLOSED) {
      job = undefined;
      fail("The connection to the server was lost.");
    }
  };
}

function show(status) {
  job.status = status;
  layOut();
  if (status.patches && !job.hasMap) drawMap();
  if (status.preview > job.preview) {
    job.preview = status.preview;
    swap(`api/jobs/${job.id}/preview?${status.preview}`);
  }
  if (status.state === "queued") {
    const others = status.ahead === 1 ? "1 picture" : `${status.ahead} pictures`;
    say(status.ahead ? `${others} ahead of yours` : "Next in line", { time: duration(status.seconds_left) });
  } else if (status.state === "running") {
    const text = `${STAGES[status.stage] ?? "Starting"} · ${Math.round(100 * status.progress)} %`;
    say(text, { time: duration(status.seconds_left), progress: status.progress });
  } else {
    job.events.close();
    if (status.state === "done") finish(status);
    else fail(status.state === "failed" ? sentence(status.error) : "Cancelled.");
  }
}

function finish(status) {
  const { height, width } = status.output;
  const result = `api/jobs/${job.id}/result`;
  const shows = status.format !== "tif" && height * width <= SHOWN_PIXELS;
  swap(shows ? result : `api/jobs/${job.id}/preview?done`);
  const download = outside("result").querySelector(".ps-download");
  const stem = [...file.name.replace(/\.[^.]*$/, "")].slice(0, 200).join(""); // whole characters
  download.href = `${result}?save_as=${encodeURIComponent(stem)}`;
  download.download = "";
  setState("done");
  say(`Done in ${inWords(status.seconds)}`, { time: `${width} × ${height} pixels`, progress: 1 });
}

function fail(reason) {
  setState("failed");
  say(reason, { progress: 0 });
}

function cancel() {
  forget();
  fail("Cancelled.");
}

// Leave the present job, on the server too.
function forget() {
  upload?.abort();
  upload = undefined;
  if (!job) return;
  job.events?.close();
  fetch(`api/jobs/${job.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
  job = undefined;
}

// What is seen

// The next picture replaces the one before when it is decoded, so that nothing flickers.
function swap(url) {
  const mine = job;
  const next = new Image();
  next.src = url;
  next.decode().then(
    () => { if (job === mine) part("after").src = url; },
    () => {}, // overtaken by a newer one
  );
}

function outputSize() {
  const before = part("before");
  return job?.status?.output ?? { width: 4 * before.naturalWidth, height: 4 * before.naturalHeight };
}

function layOut() {
  const { width, height } = outputSize();
  if (!width || !height) return;
  const frame = part("frame");
  const room = 0.64 * window.innerHeight;
  const zoomed = root.classList.contains("ps-zoomed");
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.width = zoomed
    ? `${width / window.devicePixelRatio}px`
    : `min(100%, ${Math.max(width, 320)}px, ${(room * width) / height}px)`;
}

function zoom(on) {
  root.classList.toggle("ps-zoomed", on);
  part("zoom").setAttribute("aria-pressed", on);
  part("zoom").textContent = on ? "Fit" : "100 %";
  layOut();
  const scroll = part("scroll");
  scroll.scrollTo((scroll.scrollWidth - scroll.clientWidth) / 2, (scroll.scrollHeight - scroll.clientHeight) / 2);
}

function clearMap() {
  part("map").width = 0;
  part("legend").replaceChildren();
  root.classList.remove("ps-has-map");
}

async function drawMap() {
  const mine = job;
  job.hasMap = true;
  const answer = await fetch(`api/jobs/${job.id}/map`);
  if (!answer.ok || job !== mine) return;
  const { names, colours, counts, groups, boxes } = await answer.json();
  const { width, height } = job.status.output;
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
    entry.textContent = `${name} ${Math.round((100 * counts[index]) / groups.length)} %`;
    return entry;
  }));
  root.classList.add("ps-has-map");
}

// centre -> [start, end] in the map's whole pixels, for the distinct centres along a side
function borders(centres, length, pixels) {
  const sorted = [...new Set(centres)].sort((a, b) => a - b);
  const between = [0, ...sorted.slice(1).map((centre, index) => (centre + sorted[index]) / 2), length];
  const whole = between.map((place) => Math.round((place * pixels) / length));
  return new Map(sorted.map((centre, index) => [centre, [whole[index], whole[index + 1]]]));
}

function listenToSlider() {
  const frame = part("frame");
  const handle = part("handle");
  let at = 50;
  const move = (percent) => {
    at = Math.min(100, Math.max(0, percent));
    frame.style.setProperty("--at", `${at}%`);
    handle.setAttribute("aria-valuenow", Math.round(at));
  };
  const follow = (event) => {
    const box = frame.getBoundingClientRect();
    move((100 * (event.clientX - box.left)) / box.width);
  };
  frame.addEventListener("pointerdown", (event) => {
    const zoomed = root.classList.contains("ps-zoomed");
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

// Words

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

function inWords(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function duration(seconds) {
  return seconds === null || seconds === undefined ? "" : `about ${inWords(seconds)} left`;
}
