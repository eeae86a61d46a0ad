// The page: shows what State knows. Rule: what the broker tells is only ever put in as text.
import { $, ago, begun, changes, count, el, figures, findings, follow, many, put, rate, time, verdict } from "/show.js";
import { State } from "/state.js";

const SHOWN = 300; // topics at a time
const open = new Map(); // topic id -> { at, members: "group ip:port" -> ticketed, document }
const rows = new Map(); // topic id -> its element
const ns = (n) => (n === null || n === undefined ? "–" : n < 1e4 ? `${count.format(n)} ns` : n < 1e7 ? `${Math.round(n / 1e3)} µs` : `${Math.round(n / 1e6)} ms`);

// What static members got nobody can say: they do not report.
function accounted(name) {
  const since = `since the broker started ${ago(state.head.broker.started, state.at)} ago`;
  let unknown = 0;
  for (const topic of state.topics.values()) for (const group of topic.groups) unknown += group.unknown;
  return unknown ? `${name}: every event is accounted for up to its member, ${since}; ${many(unknown, "delivery", "deliveries")} `
    + `went to members that do not report, so whether they came is not known` : `${name}: every event is accounted for, ${since}`;
}

function cells() {
  const topics = [...state.topics.values()];
  const sum = (key) => topics.reduce((total, topic) => total + topic[key], 0);
  const worst = (quality) => topics.filter((topic) => topic.class === quality && topic.late !== null)
    .reduce((most, topic) => Math.max(most, topic.late), -1);
  const { paths, quality, broker } = state.head;
  const fast = topics.filter((topic) => topic.path === "fast").length;
  const classes = Object.entries(quality.classes).map(([name, each]) => `${name} ${count.format(each.queued)} queued`);
  return [
    ["In, events/s", rate(sum("rate")), `${rate(sum("out"))} out`],
    ["Not delivered", count.format(sum("gone")), "since the accounts began"],
    ["Fast path", paths.fast.mode, paths.fast.reason || `${many(fast, "topic")} of ${topics.length}`],
    ["Slow path", paths.slow.io, classes.join(", ")],
    ["p99, SQ / BQ", `${ns(worst("SQ") < 0 ? null : worst("SQ"))} / ${ns(worst("BQ") < 0 ? null : worst("BQ"))}`,
      worst("SQ") >= 0 || worst("BQ") >= 0 ? "of the slowest topic" : fast
        ? "set fastpath.latency to measure" : "nothing came yet, or quality.latency is off"],
    ["Broker", broker.name, `tempos ${broker.version}, process ${broker.pid}, up ${ago(broker.started, state.at)}`],
  ];
}

const ORDER = {
  rate: (a, b) => b.rate - a.rate, lost: (a, b) => b.gone - a.gone,
  late: (a, b) => (b.late ?? -1) - (a.late ?? -1), name: () => 0,
};

function topics() {
  const wanted = $("find").value.trim().toLowerCase();
  const fits = (topic) => !wanted || `${topic.name} ${topic.reason} ${topic.path} ${topic.class} ${topic.groups
    .map((group) => group.name).join(" ")}`.toLowerCase().includes(wanted);
  const found = [...state.topics.values()].filter(fits)
    .sort((a, b) => ORDER[$("sort").value](a, b) || (a.name < b.name ? -1 : 1));
  put($("count"), found.length === state.topics.size ? `${count.format(found.length)}` : `${count.format(found.length)} of ${count.format(state.topics.size)}`);
  const shown = found.slice(0, SHOWN);
  $("more").hidden = found.length <= SHOWN;
  put($("more"), `${count.format(found.length - SHOWN)} more: find some by name`);
  const list = $("topics");
  const keep = new Set(shown.map((topic) => topic.id));
  for (const [id, row] of rows) if (!keep.has(id)) { row.remove(); rows.delete(id); open.delete(id); }
  // Nothing moves under the hands of who is in the list.
  const still = list.contains(document.activeElement) || list.matches(":hover");
  shown.forEach((topic, at) => {
    let row = rows.get(topic.id);
    if (!row) { row = make(topic.id); rows.set(topic.id, row); list.append(row); }
    if (!still && list.children[at] !== row) list.insertBefore(row, list.children[at] || null);
    fill(row, topic);
  });
}

function make(id) {
  const row = el("article", "topic");
  const button = row.appendChild(el("button", "row"));
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  const path = el("span", "path");
  path.append(el("span", "tag"), el("span", "tag"), el("span", "why"));
  button.append(el("span", "name"), path);
  for (const label of ["in/s", "out/s", "lost", "p99"]) {
    const num = el("span", "num", "");
    num.append("", el("small", "", label));
    button.append(num);
  }
  button.addEventListener("click", () => {
    const now = !open.has(id);
    if (now) open.set(id, { at: 0, members: new Map() }); else open.delete(id);
    button.setAttribute("aria-expanded", String(now));
    if (!now && row.children[1]) row.children[1].remove();
    else { fill(row, state.topics.get(id)); look(id); }
  });
  return row;
}

function fill(row, topic) {
  const [name, path, ...nums] = row.firstChild.children;
  put(name, topic.name);
  const [quality, way, why] = path.children;
  quality.className = `tag ${topic.class}`;
  put(quality, topic.class);
  way.className = `tag ${topic.path || "none"}`;
  put(way, topic.path || "no path");
  put(why, topic.reason);
  [rate(topic.rate), rate(topic.out), count.format(topic.gone), ns(topic.late)].forEach((text, at) => {
    if (nums[at].firstChild.data !== text) nums[at].firstChild.data = text;
  });
  nums[2].classList.toggle("hurt", topic.gone > 0);
  if (open.has(topic.id)) detail(row, topic, open.get(topic.id));
}

// From publishers by the broker to groups and members.
function detail(row, topic, known) {
  const way = el("div", "way");
  const from = el("div", "stop");
  const before = topic.lost_before;
  from.append(el("h3", "", "Publishers"), el("p", "", many(before.publishers, "publisher")), el("p", "", `${rate(topic.rate)} events/s`));
  if (before.at_least) from.append(el("p", "hurt", `at least ${count.format(before.at_least)} never ticketed: `
    + (topic.refused.over_rate ? "refused here, or lost on the way" : "lost on the way here")));
  const broker = el("div", "stop");
  const refused = Object.entries(topic.refused).map(([why, n]) => `${count.format(n)} ${why}`).join(", ");
  broker.append(el("h3", "", "Broker"), el("p", "", `${count.format(topic.received)} received: ${count.format(topic.fast)} fast, ${count.format(topic.slow)} slow`),
    el("p", "", `epoch ${topic.epoch}, policy ${topic.policy}`));
  if (refused) broker.append(el("p", "hurt", `refused: ${refused}`));
  const groups = el("div", "groups");
  if (!topic.groups.length) groups.append(el("p", "soft", "No group: nobody subscribes."));
  const scrolled = new Map([...row.querySelectorAll(".members")].map((each) => [each.dataset.group, each.scrollTop]));
  for (const group of topic.groups) {
    const box = groups.appendChild(el("div", "group"));
    const who = group.name === "~" ? "former groups" : `${group.name}: ${many(group.members, "member")}, ${rate(topic.outs.get(group.name) || 0)}/s`;
    box.append(el("h3", "", `${who} – ${count.format(group.tickets)} ticketed, `
      + `${count.format(group.delivered)} delivered, ${count.format(group.lost)} lost, ${count.format(group.dropped)} dropped`
      + (group.unknown ? `, ${count.format(group.unknown)} to members that do not report` : "")));
    const told = known.document && known.document.groups.find((each) => each.name === group.name);
    if (told && told.members.length) box.append(members(told, known));
  }
  way.append(from, broker, groups);
  if (row.children[1]) row.children[1].replaceWith(way); else row.append(way);
  for (const each of way.querySelectorAll(".members")) each.scrollTop = scrolled.get(each.dataset.group) || 0;
}

function members(group, known) {
  const box = el("div", "members");
  box.dataset.group = group.name;
  box.tabIndex = 0;
  box.setAttribute("aria-label", `members of ${group.name}`);
  const table = box.appendChild(el("table"));
  const head = table.createTHead().insertRow();
  for (const each of ["member", "/s", "ticketed", "delivered", "dropped", "waiting", ""]) head.append(el("th", "", each));
  const body = table.createTBody();
  for (const each of group.members) {
    const at = `${each.ip}:${each.port}`;
    const row = body.insertRow();
    // A work queue that has lost its last member waits for the next one.
    const name = each.ip.startsWith("0.") ? "(nobody)" : each.static ? `${at} (static)` : at;
    const cells = [name, rate((known.rates && known.rates.get(`${group.name} ${at}`)) || 0), each.ticketed, each.delivered, each.dropped, each.waiting];
    for (const cell of cells) row.append(el("td", "", typeof cell === "number" ? count.format(cell) : cell ?? "–"));
    const wrong = each.left_out || (each.unheard ? `tells of none of ${count.format(each.unheard)}` : "");
    row.append(el("td", wrong ? "hurt" : "", wrong));
  }
  return box;
}

// The members of a topic that somebody looks at are asked for by themselves.
async function look(id) {
  const known = open.get(id);
  const topic = state.topics.get(id);
  if (!known || !topic || known.asking || state.link !== "live") return;
  known.asking = true;
  try {
    const answer = await state.ask(`/v1/topics/${encodeURIComponent(topic.name)}`);
    if (!answer.ok) return;
    const document = await answer.json();
    const now = performance.now();
    const seen = new Map();
    known.rates = new Map();
    for (const group of document.groups) for (const each of group.members) {
      const key = `${group.name} ${each.ip}:${each.port}`;
      seen.set(key, each.ticketed);
      if (known.members.has(key)) known.rates.set(key, Math.max(0, (each.ticketed - known.members.get(key)) * 1000 / (now - known.at)));
    }
    Object.assign(known, { members: seen, at: now, document });
    if (open.has(id) && rows.has(id)) fill(rows.get(id), state.topics.get(id) || topic);
  } catch {
    // The stream tells that the broker is away.
  } finally {
    known.asking = false;
  }
}

// The brokers of one bus: who is in, how far each is, and what differs.
function fleet() {
  const known = state.head.fleet;
  $("fleet").hidden = !known;
  if (!known) return;
  const newest = Math.max(0, ...known.brokers.map((each) => each.in_force));
  const agreed = Math.min(newest, ...known.brokers.map((each) => each.in_force));
  put($("agreed"), `${known.name}: revision ${count.format(agreed)} is in force everywhere`
    + (known.registry === "away" ? `; the registry is away: ${known.why}` : ""));
  const table = el("table");
  const head = table.createTHead().insertRow();
  for (const each of ["broker", "at", "zone", "members", "serves", "lacks", "behind", ""]) head.append(el("th", "", each));
  const body = table.createTBody();
  for (const each of known.brokers) {
    const row = body.insertRow();
    const behind = newest - each.in_force;
    const words = [
      !each.leaving ? "" : each.leaving.done ? "out of service" : "is leaving",
      each.lacks_topics ? `lacks ${count.format(each.lacks_topics)} topics` : "",
      each.lacks_clients ? `lacks ${count.format(each.lacks_clients)} clients` : "",
    ].filter(Boolean).join(", ");
    for (const cell of [each.name, `${each.address}:${each.control_port}`, each.zone || "–", count.format(each.members), count.format(each.serves)]) row.append(el("td", "", cell));
    row.append(el("td", each.lacks ? "hurt" : "", count.format(each.lacks)), el("td", behind ? "hurt" : "", count.format(behind)), el("td", each.lacks_topics || each.lacks_clients ? "hurt" : "", words));
  }
  table.id = "brokers";
  $("brokers").replaceWith(table);
}

function draw() {
  const begins = begun(state);
  const name = state.head.broker ? state.head.broker.name : "";
  verdict(state, "broker", name, () => accounted(name));
  if (!begins) return;
  figures(cells());
  findings(state);
  fleet();
  topics();
  changes(state, state.head.broker.pid);
  for (const id of open.keys()) look(id);
  put($("foot"), `As of ${time(state.at)}, ${state.link === "live" ? "live" : "not live"}. The same in a terminal: tempos status, tempos ledger, tempos doctor.`);
}

const [state, drawn] = follow(State, draw);
$("find").addEventListener("input", drawn);
$("sort").addEventListener("change", drawn);
