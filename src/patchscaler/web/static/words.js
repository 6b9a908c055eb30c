// What the page says. Numbers hold on to their units.

const NO_BREAK = "\u00a0";
const STAGES = {
  restore: "Restoring the whole picture",
  second: "Asking the large restorer",
  prompt: "Looking up textures",
  sample: "Refining patch by patch",
  decode: "Drawing the result",
  colour: "Matching the colours",
  write: "Saving",
};

export const measure = (number, unit) => `${number.toLocaleString()}${NO_BREAK}${unit}`;
export const percent = (fraction) => measure(Math.round(100 * fraction), "%");
export const pictures = (count) => (count === 1 ? "1 picture" : `${count} pictures`);

export function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

export function duration(seconds) {
  if (seconds < 90) return measure(Math.max(1, Math.round(seconds)), "s");
  return seconds < 5400 ? measure(Math.round(seconds / 60), "min") : measure(Number((seconds / 3600).toFixed(1)), "h");
}

// One line on where a picture stands.
export function standing(item, reachable) {
  const { state, status } = item;
  if (state === "waiting") return reachable ? "Waiting" : "Waiting for the server";
  if (state === "sending") return `Sending · ${percent(item.progress)}`;
  if (state === "failed") return item.error;
  if (state === "cancelled") return "Cancelled.";
  if (state === "done") {
    const { width, height } = status.output;
    return `Done in ${duration(status.seconds)} · ${width}${NO_BREAK}×${NO_BREAK}${height}${NO_BREAK}pixels`;
  }
  const left = status.seconds_left === null ? "" : ` · about ${duration(status.seconds_left)} left`;
  if (state === "queued") return `${status.ahead ? `${pictures(status.ahead)} ahead` : "Next in line"}${left}`;
  return `${STAGES[status.stage] ?? "Starting"} · ${percent(status.progress)}${left}`;
}

// Why a picture was not taken; `about` has the server's limits.
export function refusal(status, detail, about) {
  if (status === 415) return `This file is not a picture that can be opened here. These can: ${limits(about).formats}.`;
  if (status === 413) {
    const { megapixels, megabytes } = limits(about);
    return `This picture is too large: ${megapixels} and ${megabytes} are allowed. Make it smaller or crop it.`;
  }
  if (status === 408) return "Sending took too long. Try again, or send a smaller file.";
  if (status === 422) return sentence(detail.replace(/ \(.*\)/, "")); // without the decoder's words
  return detail ? sentence(detail) : `The server answered with error ${status}.`;
}

export function limits(about) {
  const megabytes = Number((about.max_bytes / 2 ** 20).toFixed(1));
  const megapixels = measure(about.max_pixels / 1e6, "megapixels");
  return { formats: about.reads.join(", "), megapixels, megabytes: measure(megabytes, "MB") };
}
