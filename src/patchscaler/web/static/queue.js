// The pictures of this page: sent a few at a time, followed, fetched, and sent again when the server was away.

import * as server from "./server.js";
import { thumbnailOf } from "./thumbnail.js";
import { refusal } from "./words.js";

const BEAT = 3000; // ms between two looks whether the server is there; with its PATIENCE less than 10 s
const BUSY = 10000; // ms until a full server is asked again
const TRIES = 3; // of one picture at which the server, or sending, breaks off
const AT_MOST = 4; // at the server, so that other people's pictures come in between

const FOR_GOOD = [413, 415]; // too large, no picture: another try would not help

export const ACTIVE = ["waiting", "sending", "queued", "running"];
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// `heard`: functions changed(item), listed(), reached(whether), said(text), which the page gives.
export class Queue {
  items = [];
  about = undefined; // limits of the server
  reachable = undefined; // until the first look
  #heard;
  #link = new AbortController(); // ends what hangs when the server is lost
  #awaiting = []; // resolvers of those who wait for the server

  constructor(heard) {
    this.#heard = heard;
    this.#watch();
  }

  // `thumbnail`: of a picture that the browser can show, else the server's is shown. `problem`: why it can't be sent.
  add(file, options, thumbnail, problem) {
    const item = { file, options, thumbnail, source: thumbnail && file, tries: 0, state: "waiting" };
    this.items.push(item);
    this.#heard.listed();
    if (problem) this.#fail(Object.assign(item, { refused: true }), problem);
    else if (this.about && file.size > this.about.max_bytes) this.#refuse(item, 413);
    this.#start();
    return item;
  }

  again(item, options = item.options) {
    this.#drop(item);
    Object.assign(item, { options, tries: 0, saved: false, map: undefined, status: undefined });
    this.#change(item, { state: "waiting", error: undefined });
    this.#start();
  }

  cancel(item) {
    this.#drop(item);
    this.#change(item, { state: "cancelled" });
    this.#start();
  }

  remove(item) {
    this.#drop(item);
    item.state = "cancelled";
    this.items.splice(this.items.indexOf(item), 1);
    this.#heard.listed();
    this.#start();
  }

  // The page is left: the server needs nothing of it any more.
  leave() {
    for (const { id } of this.items) if (id) server.remove(id);
  }

  #drop(item) {
    item.attempt?.abort();
    item.attempt = undefined;
    if (item.id) server.remove(item.id);
    URL.revokeObjectURL(item.url);
    Object.assign(item, { id: undefined, url: undefined, preview: undefined, result: undefined, last: undefined });
  }

  #change(item, news) {
    Object.assign(item, news);
    this.#heard.changed(item);
  }

  #fail(item, error) {
    this.#change(item, { state: "failed", error });
    this.#heard.said(`${item.file.name}: ${error}`);
  }

  #refuse(item, status, detail) {
    item.refused = FOR_GOOD.includes(status);
    this.#fail(item, refusal(status, detail, this.about));
  }

  #start() {
    const places = Math.min((this.about?.workers ?? 1) + 1, AT_MOST);
    const working = this.items.filter((item) => item.attempt).length;
    const waiting = this.items.filter((item) => item.state === "waiting" && !item.attempt);
    for (const item of waiting.slice(0, Math.max(places - working, 0))) this.#work(item);
  }

  async #work(item) {
    const attempt = (item.attempt = new AbortController());
    const mine = () => item.attempt === attempt; // not cancelled, nor begun anew
    while (mine()) {
      try {
        await this.#once(item, AbortSignal.any([attempt.signal, this.#link.signal]), mine);
        if (mine()) item.attempt = undefined;
      } catch (error) {
        const goesOn = mine() && (await this.#recover(item, error, mine));
        if (mine() && !goesOn) item.attempt = undefined;
      }
    }
    this.#start();
  }

  // From where the picture stands to its result.
  async #once(item, signal, mine) {
    if (item.id) await server.status(item.id); // or it is gone
    else {
      this.#change(item, { state: "sending", progress: 0 });
      const status = await server.send(item.file, item.options, (progress) => this.#change(item, { progress }), signal);
      if (!mine()) {
        server.remove(status.id);
        return;
      }
      this.#change(item, { id: status.id, status, state: status.state });
    }
    const { id } = item;
    if (!item.source) {
      const source = await server.file(id, "input", signal);
      this.#change(item, { source, thumbnail: await thumbnailOf(source) });
    }
    const status = await server.follow(id, (news) => mine() && this.#follow(item, news), signal);
    if (status.state === "failed") throw new server.Refused(0, status.error);
    if (status.state === "cancelled") throw new server.Refused(404); // by a server that stops
    const result = await server.file(id, "result", signal);
    const last = await server.file(id, "preview", signal);
    const map = await server.patchMap(id);
    if (!mine()) return;
    server.remove(id);
    const url = URL.createObjectURL(result);
    this.#change(item, { id: undefined, status, result, last, map, url, state: "done" });
    this.#heard.said(`${item.file.name} is done.`);
  }

  #follow(item, status) {
    if (status.preview && !item.preview) this.#heard.said(`${item.file.name}: the coarse picture is there.`);
    if (status.patches && !item.map) {
      const { id } = item;
      const keep = (map) => item.id === id && this.#change(item, { map });
      item.map = {}; // asked for
      server.patchMap(id).then(keep, () => keep(undefined));
    }
    const preview = status.preview ? `api/jobs/${item.id}/preview?${status.preview}` : undefined;
    this.#change(item, { status, preview, state: status.state });
  }

  // Whether to go on after an error.
  async #recover(item, error, mine) {
    if (error instanceof server.Unreachable) {
      this.#change(item, { state: "waiting" });
      if (!(await this.#there())) return true;
      await pause(1000); // it is there, and the connection broke all the same
      if (!mine()) return false;
      if (!item.id) item.tries += 1;
    } else if (error.status === 404) {
      // The server has begun anew. Perhaps it was this very picture that it did not survive.
      if (item.status?.state === "running") item.tries += 1;
      this.#change(item, { id: undefined, preview: undefined, state: "waiting" });
    } else if (error.status === 503) {
      this.#change(item, { state: "waiting" });
      await pause(BUSY);
    } else {
      this.#refuse(item, error.status, error.detail);
      return false;
    }
    if (item.tries < TRIES) return true;
    this.#fail(item, "Given up: the connection broke off three times at this picture.");
    return false;
  }

  async #watch() {
    for (;;) {
      await this.#look();
      await pause(BEAT);
    }
  }

  async #look() {
    let reachable = true;
    try {
      this.about = await server.about();
    } catch (error) {
      reachable = !(error instanceof server.Unreachable);
    }
    if (reachable) for (const resolve of this.#awaiting.splice(0)) resolve();
    if (reachable === this.reachable) return reachable;
    this.reachable = reachable;
    if (!reachable) {
      this.#link.abort();
      this.#link = new AbortController();
    }
    this.#heard.reached(reachable);
    return reachable;
  }

  // True: the server is there. False: it was not, and now it is back.
  async #there() {
    if (await this.#look()) return true;
    await new Promise((resolve) => this.#awaiting.push(resolve));
    return false;
  }
}
