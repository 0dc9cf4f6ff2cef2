"use strict";
// Keeps the page up to date: /events has a status each second, and everything that happens.

const NONE = 0x7fff; // a bucket without an owner
const MOVING = 0x8000; // flag of a bucket in which flows stay with another worker than its owner
const PAST = 5 * 60; // seconds of the strips of states
const EVENTS = 200; // events that are shown
const FLASH = 3000; // milliseconds for which a bucket that has moved is bright

const STATES = {
  ready: "#2f9e52", loading: "#d9912b", starting: "#d9912b", draining: "#7d8894", held: "#d9912b",
  stalled: "#d63a36", failed: "#d63a36", removed: "transparent",
};

const services = new Map(); // name → { workers: last numbers by name, buckets: owners, moved: times, key }
const states = new Map(); // worker → [[time, state], …]
let lastAt; // when the status before came, in milliseconds

const color = (slot) => `hsl(${(slot * 137.508) % 360} 62% 52%)`;
const percent = (part) => `${(part * 100).toFixed(1)} %`;
const make = (name, text, attributes = {}) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const clock = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);

function known(name) {
  if (!services.has(name)) services.set(name, { workers: new Map(), buckets: null, moved: new Map(), key: "" });
  return services.get(name);
}

// The section of a service, in the order of the status; made if there is none.
function section(name) {
  const all = document.getElementById("services");
  for (const child of all.children) if (child.dataset.service === name) return child;
  const id = `service-${name}`;
  const made = make("section", undefined, { "data-service": name, "aria-labelledby": id });
  made.append(make("h2", name, { id }), make("p", "", { class: "listens" }), make("p", "", { class: "summary" }));
  const canvas = make("canvas", undefined, { class: "buckets", width: 1024, height: 64, role: "img", hidden: "" });
  const scroll = make("div", undefined, { class: "scroll", tabindex: 0, role: "region", "aria-label": `workers of ${name}` });
  const table = make("table");
  const head = document.querySelector("thead");
  table.append(head ? head.cloneNode(true) : make("thead"), make("tbody"));
  scroll.append(table);
  made.append(canvas, scroll);
  all.append(made);
  return made;
}

// What a worker did since the status before.
function rates(worker, before, seconds) {
  const selected = worker.sockets.reduce((sum, socket) => sum + socket.selected, 0);
  const cpu = worker.usage ? worker.usage.cpu_seconds : 0;
  const same = before && before.pid === worker.pid && seconds > 0;
  return {
    selected, cpu, pid: worker.pid,
    fresh: same && selected >= before.selected ? (selected - before.selected) / seconds : null,
    busy: same && worker.usage ? Math.max(0, cpu - before.cpu) / seconds : null,
  };
}

function row(worker, now, fresh) {
  const line = make("tr");
  const name = make("th", undefined, { scope: "row" });
  const chip = make("canvas", undefined, { class: "chip", width: 1, height: 1, "aria-hidden": "true" });
  const paint = chip.getContext("2d");
  paint.fillStyle = color(worker.slot);
  paint.fillRect(0, 0, 1, 1);
  name.append(chip, worker.name + (worker.successor ? " (successor)" : ""));
  const state = make("td", worker.state, { class: "state", "data-state": worker.state });
  if (worker.lacks) state.append(make("br"), make("small", worker.lacks));
  const counted = worker.sockets.filter((socket) => socket.connections !== null);
  const connections = counted.reduce((sum, socket) => sum + socket.connections, 0);
  const queue = make("td");
  const length = worker.sockets.reduce((sum, socket) => sum + socket.queue, 0);
  const fill = Math.max(0, ...worker.sockets.map((socket) => socket.queue / Math.max(1, socket.backlog)));
  queue.append(String(length), make("meter", undefined, {
    min: 0, max: 1, high: 0.8, value: Math.min(1, fill), "aria-label": `queue of ${worker.name}: ${percent(fill)} full`,
  }));
  const past = make("td");
  past.append(strip(worker));
  line.append(
    name, state, make("td", worker.pid ?? ""), make("td", percent(worker.share)),
    make("td", now.fresh === null || !fresh ? "" : percent(now.fresh / fresh)),
    make("td", now.fresh === null ? "" : now.fresh.toFixed(0)),
    make("td", counted.length ? connections : ""), queue, make("td", worker.flows),
    make("td", now.busy === null ? "" : percent(now.busy)),
    make("td", worker.usage ? `${(worker.usage.resident_bytes / 1e6).toFixed(0)} MB` : ""),
    make("td", worker.restarts), past,
  );
  return line;
}

// The states of a worker over the last minutes, as colours; the newest at the right.
function strip(worker) {
  const canvas = make("canvas", undefined, { class: "past", width: 150, height: 1, role: "img" });
  const paint = canvas.getContext("2d");
  const now = Date.now() / 1000;
  const known = (states.get(worker.name) ?? []).filter(([, state]) => state in STATES);
  known.forEach(([since, state], at) => {
    const until = at + 1 < known.length ? known[at + 1][0] : now;
    const from = Math.max(0, 150 * (1 - (now - since) / PAST));
    const to = 150 * (1 - (now - until) / PAST);
    if (to <= 0) return;
    paint.fillStyle = STATES[state];
    paint.fillRect(from, 0, Math.max(1, to - from), 1);
  });
  const recent = known.filter(([since]) => since > now - PAST).map(([since, state]) => `${state} since ${clock(since)}`);
  canvas.setAttribute("aria-label", recent.join(", ") || `${worker.state} all the time`);
  return canvas;
}

function note(worker, time, state) {
  const past = states.get(worker) ?? [];
  if (past.length && past[past.length - 1][1] === state) return;
  past.push([time, state]);
  const old = Date.now() / 1000 - PAST;
  while (past.length > 1 && past[1][0] < old) past.shift();
  states.set(worker, past);
}

function show(status) {
  const at = performance.now();
  const seconds = lastAt === undefined ? 0 : (at - lastAt) / 1000;
  const names = new Set(status.services.map((service) => service.name));
  for (const child of [...document.getElementById("services").children]) {
    if (!names.has(child.dataset.service)) child.remove();
  }
  for (const service of status.services) {
    const own = known(service.name);
    const place = section(service.name);
    const numbers = service.workers.map((worker) => rates(worker, own.workers.get(key(worker)), seconds));
    const fresh = numbers.reduce((sum, now) => sum + (now.fresh ?? 0), 0);
    own.workers = new Map(service.workers.map((worker, index) => [key(worker), numbers[index]]));
    for (const worker of service.workers) {
      // Events do not tell of stalls as states.
      if (!worker.successor) note(worker.name, Date.now() / 1000, worker.state);
    }
    place.querySelector(".listens").textContent = service.groups.map((group) => group.listen).join(" ");
    place.querySelector(".summary").textContent = summary(service, fresh);
    place.querySelector("tbody").replaceChildren(...service.workers.map((worker, index) => row(worker, numbers[index], fresh)));
    const version = `${service.moved} ${service.moving} ${service.workers.map((worker) => worker.slot)}`;
    if (version !== own.key) {
      own.key = version;
      loadBuckets(service.name, own, place);
    } else if (own.moved.size) paintBuckets(own, place, service);
  }
  document.getElementById("daemon").textContent = `version ${status.version}, pid ${status.pid}, Linux ${status.kernel}`;
  say(`live, ${clock(Date.now() / 1000)} UTC`, false);
  lastAt = at;
}

const key = (worker) => `${worker.name} ${worker.successor}`;

function summary(service, fresh) {
  const count = (name) => service.groups.reduce((sum, group) => sum + (group.counters[name] ?? 0), 0);
  const ready = service.workers.filter((worker) => worker.state === "ready").length;
  const kept = service.groups.reduce((sum, group) => sum + (group.flows ? group.flows.kept : 0), 0);
  const drops = service.workers.flatMap((worker) => worker.sockets).reduce((sum, socket) => sum + (socket.drops ?? 0), 0);
  const said = [
    `${ready} ready of ${service.wanted} that are wanted`, `${fresh.toFixed(0)} new/s`, `${count("refused")} refused`,
    `${drops} dropped`, `${kept} flows kept`,
  ];
  if (service.moving) said.push(`${service.moving} buckets moving`);
  if (service.ending) said.push("is ending");
  if (service.busy) said.push(service.busy);
  return said.join(" · ");
}

async function loadBuckets(name, own, place) {
  const answer = await fetch(`/buckets?service=${encodeURIComponent(name)}`);
  if (!answer.ok) return;
  const owners = new Uint16Array(await answer.arrayBuffer());
  if (own.buckets) {
    owners.forEach((owner, bucket) => {
      if ((owner & NONE) !== (own.buckets[bucket] & NONE)) own.moved.set(bucket, Date.now());
    });
  }
  own.buckets = owners;
  paintBuckets(own, place);
}

// One dot a bucket: 1,024 columns of 64 buckets each, sorted by the slots of their owners; bright while it is new with its
// owner, white while flows stay elsewhere.
function paintBuckets(own, place) {
  const canvas = place.querySelector(".buckets");
  const paint = canvas.getContext("2d");
  const image = paint.createImageData(1024, 64);
  const colors = new Map();
  const now = Date.now();
  for (let column = 0; column < 1024; column += 1) {
    const buckets = Array.from({ length: 64 }, (_, index) => column * 64 + index);
    buckets.sort((one, other) => (own.buckets[one] & NONE) - (own.buckets[other] & NONE));
    buckets.forEach((bucket, line) => {
      const slot = own.buckets[bucket] & NONE;
      if (!colors.has(slot)) colors.set(slot, slot === NONE ? [128, 128, 128] : rgb(color(slot)));
      const since = own.moved.get(bucket);
      if (since && now - since > FLASH) own.moved.delete(bucket);
      const light = own.buckets[bucket] & MOVING ? 1 : since && now - since <= FLASH ? 0.6 : 0;
      const at = 4 * (line * 1024 + column);
      image.data.set(colors.get(slot).map((part) => part + (255 - part) * light), at);
      image.data[at + 3] = 255;
    });
  }
  paint.putImageData(image, 0, 0);
  canvas.hidden = false;
  const owned = new Set(own.buckets.map((owner) => owner & NONE));
  owned.delete(NONE);
  canvas.setAttribute("aria-label", `65,536 buckets, a dot each, in the colours of the ${owned.size} workers that own them`);
}

const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgb(text) {
  probe.fillStyle = text;
  probe.fillRect(0, 0, 1, 1);
  return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3);
}

function tell(event) {
  const whom = event.worker ?? event.service ?? "the daemon";
  if (event.worker && !event.successor) {
    if (event.event === "state") note(event.worker, event.time, event.to);
    if (event.event === "stalled") note(event.worker, event.time, "stalled");
    if (event.event === "recovered") note(event.worker, event.time, "ready");
    if (event.event === "removed") note(event.worker, event.time, "removed");
  }
  const rest = Object.entries(event).filter(([name]) => !["seq", "time", "service", "worker", "event", "reason", "by", "from", "to", "successor", "expected"].includes(name));
  let what = event.event.replace("_", " ");
  if (event.from !== undefined) what = `${event.event === "state" ? "" : `${what} `}${event.from} → ${event.to}`;
  if (rest.length) what += ` (${rest.map(([name, value]) => `${name} ${typeof value === "number" ? Number(value.toFixed(2)) : value}`).join(", ")})`;
  if (event.successor) what = `its successor ${what}`;
  const line = make("li");
  line.append(make("time", clock(event.time), { datetime: new Date(event.time * 1000).toISOString() }), ` ${whom}: ${what}`);
  if (event.reason) line.append(`, ${event.reason}`);
  if (event.by) line.append(` (by ${event.by.signal ?? `${event.by.command}, pid ${event.by.pid}, uid ${event.by.uid}`})`);
  add(line);
}

function add(line) {
  const list = document.getElementById("events");
  list.prepend(line);
  while (list.children.length > EVENTS) list.lastChild.remove();
}

function say(text, lost) {
  const place = document.getElementById("connection");
  place.textContent = text;
  place.classList.toggle("lost", lost);
}

const stream = new EventSource("/events");
stream.addEventListener("open", () => {
  // Another daemon may answer now, and events come from the first one that it knows.
  document.getElementById("events").replaceChildren();
  states.clear();
});
stream.addEventListener("status", (message) => show(JSON.parse(message.data)));
stream.addEventListener("event", (message) => tell(JSON.parse(message.data)));
stream.addEventListener("missed", (message) => add(make("li", `${JSON.parse(message.data).missed} events are not kept any more`)));
stream.addEventListener("error", () => say("the daemon does not answer: this is what was", true));
