// Keeps the pages of training jobs current, and draws a job's losses while it runs.
// Asks only the server that the page came from; whatever it reads is written as text, never as HTML.
"use strict";

const ENDED = ["succeeded", "failed", "cancelled"];
const EVERY_MS = 1000;
const AFTER_FAILURE_MS = 5000;
const EVENTS_SHOWN = 30;
const byId = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const utc = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 19);

async function ask(path) {
  // Of the origin: an address that was opened as `http://name:key@…` may not be fetched from.
  const answer = await fetch(location.origin + path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer;
}

const read = async (path) => (await ask(path)).json();

function write(id, text) {
  // A screen reader says what changes: the same again is no change.
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function made(name, text, attributes = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

async function repeat(once) {
  // `once` says whether there may be more to see. A page that nobody looks at asks for nothing.
  for (;;) {
    let pause = EVERY_MS;
    try {
      if (!document.hidden && !(await once())) return write("notice", "");
      write("notice", "");
    } catch (error) {
      write("notice", `This may be out of date: the server did not answer (${error.message}). Trying again.`);
      pause = AFTER_FAILURE_MS;
    }
    await sleep(pause);
  }
}

// One job

async function eventsSince(place, known) {
  // Newest first, those behind the event `known`.
  const found = [];
  for (let after = ""; ; ) {
    const page = await read(`${place}/events?limit=100${after}`);
    for (const event of page.data) {
      if (event.id === known) return found;
      found.push(event);
    }
    if (!page.has_more) return found;
    after = `&after=${encodeURIComponent(page.last_id)}`;
  }
}

function followJob(main) {
  const place = `/v1/fine_tuning/jobs/${encodeURIComponent(main.dataset.job)}`;
  const steps = new Map(); // of a step that was done twice, the last telling
  let events = [];
  let known;
  return repeat(async () => {
    const job = await read(place); // before its events: where it has ended, they tell of the end
    const fresh = await eventsSince(place, known);
    known = fresh.length ? fresh[0].id : known;
    events = fresh.concat(events).slice(0, EVENTS_SHOWN);
    for (const event of fresh.reverse()) {
      if (event.type === "metrics") steps.set(event.data.step, event.data);
    }
    showJob(job);
    if (fresh.length) {
      showEvents(events);
      draw([...steps.values()].sort((one, other) => one.step - other.step));
    }
    // A method without steps says only that it is done.
    if (job.status === "succeeded" && !steps.size) byId("progress").value = byId("progress").max;
    await showFiles(job.result_files);
    return !ENDED.includes(job.status);
  });
}

function showJob(job) {
  write("status", job.status);
  byId("status").className = `status ${job.status}`;
  write("version", job.fine_tuned_model ?? "none yet");
  write("error", job.error?.message ?? "");
  byId("error").hidden = !job.error;
}

function showEvents(events) {
  const lines = events.map((event) => {
    const line = made("li", "", { class: event.level });
    const time = utc(event.created_at);
    line.append(made("time", time.replace("T", " "), { datetime: `${time}Z` }), ` ${event.message}`);
    return line;
  });
  byId("events").replaceChildren(...lines);
}

async function showFiles(ids) {
  const shown = byId("files").querySelectorAll("[data-file]").length;
  if (ids.length <= shown) return;
  const links = [];
  for (const id of ids) {
    const place = `/v1/files/${encodeURIComponent(id)}`;
    const name = await read(place).then((file) => file.filename, () => null);
    if (name === null) continue; // deleted since
    const line = made("li", "", { "data-file": id });
    line.append(made("a", name, { href: `${place}/content`, download: name }));
    links.push(line);
  }
  if (links.length) byId("files").replaceChildren(...links);
}

// The curve

const BOX = { left: 60, right: 630, top: 10, bottom: 245 };

function svg(name, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function ticks(low, high, whole) {
  // About five round numbers from `low` to `high`.
  const rough = Math.max((high - low) / 5, whole ? 1 : 1e-9);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high * (1 + 1e-9); n++) found.push(n * step);
  return found.map((value) => [value, value.toFixed(Math.max(0, -Math.floor(Math.log10(step))))]);
}

function draw(points) {
  const last = points.at(-1);
  if (!last) return;
  const series = [["training", "train_loss"], ["validation", "valid_loss"]].map(([name, key]) => [
    name, points.filter((each) => Number.isFinite(each[key])).map((each) => [each.step, each[key]]),
  ]);
  const losses = series.flatMap(([, pairs]) => pairs.map(([, loss]) => loss));
  const [least, most] = [Math.min(...losses), Math.max(...losses)];
  const margin = (most - least) * 0.05 || Math.abs(most) * 0.05 || 1;
  const [low, high, total] = [least - margin, most + margin, Math.max(last.total_steps ?? 0, last.step)];
  const x = (step) => BOX.left + (step / total) * (BOX.right - BOX.left);
  const y = (loss) => BOX.bottom - ((loss - low) / (high - low)) * (BOX.bottom - BOX.top);
  const drawn = [];
  for (const [value, text] of ticks(low, high, false)) {
    drawn.push(svg("line", { class: "grid", x1: BOX.left, x2: BOX.right, y1: y(value), y2: y(value) }));
    drawn.push(svg("text", { x: BOX.left - 6, y: y(value) + 4, "text-anchor": "end" }, text));
  }
  for (const [value, text] of ticks(0, total, true)) {
    drawn.push(svg("text", { x: x(value), y: BOX.bottom + 16, "text-anchor": "middle" }, text));
  }
  drawn.push(svg("text", { x: (BOX.left + BOX.right) / 2, y: 276, "text-anchor": "middle" }, "step"));
  for (const [name, pairs] of series) {
    const places = pairs.map(([step, loss]) => [x(step).toFixed(1), y(loss).toFixed(1)]);
    drawn.push(svg("polyline", { class: name, points: places.join(" ") }));
    drawn.push(...places.map(([cx, cy]) => svg("circle", { class: name, cx, cy, r: 2 })));
  }
  byId("plot").replaceChildren(...drawn);
  const now = series.filter(([, pairs]) => pairs.length).map(([name, pairs]) => {
    const [step, loss] = pairs.at(-1);
    return `${name} ${loss.toFixed(4)} at step ${step}`;
  });
  byId("validation").hidden = now.length < 2;
  write("losses", now.join(", "));
  write("curve-text", now.join(", "));
  byId("progress").max = total;
  byId("progress").value = last.step;
  write("steps", `step ${last.step} of ${total}`);
}

// The list

function followList(main) {
  if (main.dataset.live !== "yes") return;
  return repeat(async () => {
    const text = await (await ask(location.pathname + location.search)).text();
    const page = new DOMParser().parseFromString(text, "text/html");
    const [rows, now] = [byId("rows"), page.getElementById("rows")];
    if (now && rows.innerHTML !== now.innerHTML) {
      const focused = rows.contains(document.activeElement) && document.activeElement.getAttribute("href");
      rows.replaceChildren(...now.children);
      if (focused) rows.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    }
    return page.getElementById("jobs")?.dataset.live === "yes";
  });
}

if (byId("job")) followJob(byId("job"));
if (byId("jobs")) followList(byId("jobs"));
