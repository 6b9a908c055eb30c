// The calls of the HTTP API.

const PATIENCE = 5000; // ms for a short answer
const GATEWAY_ERRORS = [502, 504]; // a proxy's words for a server that does not answer

export const FINISHED = ["done", "failed", "cancelled"];

export class Unreachable extends Error {}

export class Refused extends Error {
  constructor(status, detail) {
    super(detail ?? `error ${status}`);
    Object.assign(this, { status, detail });
  }
}

async function get(path, signal = AbortSignal.timeout(PATIENCE)) {
  try {
    const answer = await fetch(path, { signal, cache: "no-store" });
    if (answer.ok) return answer;
    if (!GATEWAY_ERRORS.includes(answer.status)) {
      throw new Refused(answer.status, (await answer.json().catch(() => ({}))).detail);
    }
  } catch (error) {
    if (error instanceof Refused) throw error;
  }
  throw new Unreachable();
}

const read = async (answer, kind) => {
  try {
    return await answer[kind]();
  } catch {
    throw new Unreachable(); // broken off
  }
};

export const about = async () => read(await get("api/about"), "json");
export const status = async (id) => read(await get(`api/jobs/${id}`), "json");
export const patchMap = async (id) => read(await get(`api/jobs/${id}/map`), "json");
// As long as it takes: `signal` ends it.
export const file = async (id, name, signal) => read(await get(`api/jobs/${id}/${name}`, signal), "blob");

export function remove(id) {
  fetch(`api/jobs/${id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

// XMLHttpRequest, because fetch does not tell how much is sent.
export function send(picture, options, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `api/jobs?${new URLSearchParams(options)}`);
    request.responseType = "json";
    request.upload.onprogress = ({ loaded, total }) => onProgress(loaded / (total || 1));
    request.onload = () => {
      const { status: code, response } = request;
      if (code === 202) resolve(response);
      else reject(GATEWAY_ERRORS.includes(code) ? new Unreachable() : new Refused(code, response?.detail));
    };
    request.onerror = request.onabort = () => reject(new Unreachable());
    signal.addEventListener("abort", () => request.abort());
    request.send(picture);
  });
}

// Resolves with the last status. Events come at once in a hidden page, too, where timers wait.
export function follow(id, onStatus, signal) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(`api/jobs/${id}/events`);
    const end = (settle, value) => {
      events.close();
      settle(value);
    };
    events.addEventListener("status", (event) => {
      const news = JSON.parse(event.data);
      if (FINISHED.includes(news.state)) end(resolve, news);
      else onStatus(news);
    });
    events.onerror = () => end(reject, new Unreachable());
    signal.addEventListener("abort", () => end(reject, new Unreachable()));
  });
}
