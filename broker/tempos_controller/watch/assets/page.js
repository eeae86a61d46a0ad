// The Controller's page: shows what Platform knows. Rule: what the Controller tells is only ever put in as text.
import { $, ago, begun, changes, count, el, figures, findings, follow, many, put, rate, time, verdict } from "/show.js";
import { Platform } from "/platform.js";

const SHOWN = 200; // workflows at a time
const OPEN = 6; // so many are shown whole from the beginning
const rows = new Map(); // name -> its element
const toggled = new Map(); // name -> whether somebody opened or closed it

const reasons = (counted) => Object.entries(counted).map(([why, n]) => `${count.format(n)} ${why}`).join(", ");
const sum = (list, key) => list.reduce((total, each) => total + each[key], 0);
const perSecond = (list, key) => list.reduce((total, each) => total + (each.rate[key] || 0), 0);
// Where an address that this machine uses for itself is reachable from where the page is shown, too.
const isLocal = (host) => host === "localhost" || host === "[::1]" || host.startsWith("127.");
function reachable(api) {
  const url = new URL(api);
  return isLocal(url.hostname) && !isLocal(location.hostname) ? "" : url.href;
}

const broker = () => state.head.parts.find((each) => each.sort === "broker");
const steps = (workflow) => workflow.steps;
const signals = (workflow) => (workflow.triggers.length ? workflow.triggers : workflow.steps.slice(0, 1));

function well(name) {
  const { started } = state.head.controller;
  return `${name}: everything that is wanted is in force, every part answers, every account adds up – watched for ${ago(started, state.at)}`;
}

function cells() {
  const all = [...state.workflows.values()];
  const { controller, parts } = state.head;
  const every = all.flatMap(steps);
  const away = parts.filter((each) => each.state !== "running").length;
  return [
    ["Signals in, /s", rate(perSecond(all.flatMap((each) => each.triggers), "in")), many(all.flatMap((each) => each.triggers).length, "trigger")],
    ["Invocations done, /s", rate(perSecond(every, "done")), `${count.format(sum(every, "done"))} so far`],
    ["Failed, /s", rate(perSecond(every, "failed")), `${count.format(sum(every, "failed"))} so far`],
    ["Waiting / running", `${count.format(sum(every, "waiting"))} / ${count.format(sum(every, "running"))}`, "invocations"],
    ["Parts", away ? `${parts.length - away} of ${parts.length}` : count.format(parts.length), away ? `${away} not as ${away === 1 ? "it" : "they"} should be` : "all run"],
    ["Controller", controller.name, `tempos ${controller.version}, process ${controller.pid}, up ${ago(controller.started, state.at)}`
      + (controller.changing ? `, changing: ${controller.changing}` : "")],
  ];
}

// --- workflows -----------------------------------------------------------------------------

const ORDER = {
  name: () => 0, rate: (a, b) => perSecond(signals(b), "in") - perSecond(signals(a), "in"),
  failed: (a, b) => sum(b.steps, "failed") - sum(a.steps, "failed"), waiting: (a, b) => sum(b.steps, "waiting") - sum(a.steps, "waiting"),
};

const way = (workflow) => [workflow.triggers.map((each) => each.name).join(", "), workflow.topic,
  ...workflow.steps.flatMap((each) => [each.function, each.result])].filter(Boolean).join(" → ");

function workflows() {
  const wanted = $("find").value.trim().toLowerCase();
  const all = [...state.workflows.values()];
  const found = all.filter((each) => !wanted || `${each.name} ${each.class} ${way(each)}`.toLowerCase().includes(wanted))
    .sort((a, b) => ORDER[$("sort").value](a, b) || (a.name < b.name ? -1 : 1));
  put($("count"), found.length === all.length ? count.format(all.length) : `${count.format(found.length)} of ${count.format(all.length)}`);
  $("more").hidden = all.length > 0 && found.length <= SHOWN;
  put($("more"), all.length ? `${count.format(found.length - SHOWN)} more: find some by name` : "No workflow yet. Have one with: tempos workflow apply FILE");
  const list = $("workflows");
  const shown = found.slice(0, SHOWN);
  const keep = new Set(shown.map((each) => each.name));
  for (const [name, row] of rows) if (!keep.has(name)) { row.remove(); rows.delete(name); }
  // Nothing moves under the hands of who is in the list.
  const still = list.contains(document.activeElement) || list.matches(":hover");
  shown.forEach((each, at) => {
    let row = rows.get(each.name);
    if (!row) { row = make(each.name); rows.set(each.name, row); list.append(row); }
    if (!still && list.children[at] !== row) list.insertBefore(row, list.children[at] || null);
    fill(row, each, toggled.has(each.name) ? toggled.get(each.name) : all.length <= OPEN);
  });
}

function make(name) {
  const row = el("article", "topic flow");
  const button = row.appendChild(el("button", "row"));
  button.type = "button";
  const line = el("span", "line");
  line.append(el("span", "tag"), el("span"));
  button.append(el("span", "name"), line);
  for (const label of ["in/s", "done/s", "failed/s", "waiting", "running"]) {
    const num = el("span", "num", "");
    num.append("", el("small", "", label));
    button.append(num);
  }
  button.addEventListener("click", () => {
    toggled.set(name, button.getAttribute("aria-expanded") !== "true");
    drawn();
  });
  return row;
}

function fill(row, workflow, isOpen) {
  const button = row.firstChild;
  button.setAttribute("aria-expanded", String(isOpen));
  const [name, line, ...nums] = button.children;
  put(name, workflow.name);
  line.firstChild.className = `tag ${workflow.class}`;
  put(line.firstChild, workflow.class);
  put(line.lastChild, way(workflow));
  const failing = perSecond(workflow.steps, "failed");
  // Done is what came out of the last step; what failed, waits and runs may be anywhere.
  [rate(perSecond(signals(workflow), "in")), rate(perSecond(workflow.steps.slice(-1), "done")), rate(failing),
    count.format(sum(workflow.steps, "waiting")), count.format(sum(workflow.steps, "running"))].forEach((text, at) => {
    if (nums[at].firstChild.data !== text) nums[at].firstChild.data = text;
  });
  nums[2].classList.toggle("hurt", failing > 0);
  if (!isOpen) { if (row.children[1]) row.children[1].remove(); return; }
  const chain = el("ol", "chain");
  if (workflow.triggers.length) chain.append(...workflow.triggers.map(trigger));
  let before = "";
  const isAsked = workflow.triggers.some((each) => each.answers);
  for (const step of workflow.steps) {
    if (step.topic !== before) chain.append(topic(step.topic, workflow.class));
    chain.append(stop(step));
    if (step.result) chain.append(topic(step.result, workflow.class, "result topic", step.reply && isAsked));
    before = step.result;
  }
  if (row.children[1]) row.children[1].replaceWith(chain); else row.append(chain);
}

function box(cls, sort, name, ...lines) {
  const item = el("li", cls);
  item.append(el("p", "sort", sort), el("h3", "", name), ...lines.filter(Boolean));
  return item;
}
const said = (text, cls) => (text ? el("p", cls, text) : null);

function trigger(each) {
  const { answers } = each;
  const dropped = reasons(each.dropped);
  const isBad = each.away || each.why_not || !["up", ""].includes(each.state);
  return box(each.away ? "away" : isBad ? "bad" : "", `${each.kind} trigger on ${each.node}`, each.name,
    said(each.where), said(`${rate(each.rate.in)}/s in, ${rate(each.rate.done)}/s published`, "now"),
    said(`${count.format(each.in)} received, ${count.format(each.done)} published${each.waiting ? `, ${count.format(each.waiting)} waiting` : ""}`),
    said(answers && `${count.format(answers.answered)} of ${count.format(answers.requests)} answered`
      + (answers.timeouts ? `, ${count.format(answers.timeouts)} too late` : "")),
    said(dropped && `dropped: ${dropped}`, "hurt"),
    said(each.away ? "away: this is what it said last" : each.why_not || (isBad ? `it is ${each.state}` : ""), "hurt"));
}

function topic(name, quality, sort = "topic", isAnswer = false) {
  const [path, why] = state.head.paths[name] || [];
  const tags = el("p");
  tags.append(el("span", `tag ${quality}`, quality));
  if (path) tags.append(el("span", `tag ${path}`, path));
  if (why) tags.title = why;
  return box("topic-stop", sort, name, tags, said(isAnswer && "and back to the caller"));
}

function stop(step) {
  const failures = reasons(step.failures);
  const faults = step.at.flatMap((each) => [each.away ? `${each.node} is away: this is what it said last` : "",
    ...(each.away ? [] : [each.fault, each.apart]).map((text) => text && `${each.node}: ${text}`)]).filter(Boolean);
  const isAway = step.at.every((each) => each.away);
  const workers = step.at.map((each) => `${each.node} ${each.workers}/${each.of}`).join(", ");
  const name = step.name === step.function ? step.function : `${step.function} (step ${step.name})`;
  return box(isAway ? "away" : faults.length || step.drift ? "bad" : "", `group ${step.group}`, name,
    said(`${rate(step.rate.in)}/s in, ${rate(step.rate.done)}/s done${step.rate.failed ? `, ${rate(step.rate.failed)}/s failed` : ""}`, "now"),
    said(`${count.format(step.in)} accepted, ${count.format(step.done)} succeeded`),
    said(`${count.format(step.waiting)} waiting, ${count.format(step.running)} running${step.retries ? `, ${many(step.retries, "retry", "retries")}` : ""}`),
    said(failures && `failed: ${failures}`, "hurt"), said(step.drift && `does not add up: ${step.drift} events`, "hurt"),
    said(`workers: ${workers}`), said(step.error && `what fails goes to topic ${step.error}`, "soft"), ...faults.map((text) => said(text, "hurt")));
}

// --- parts ---------------------------------------------------------------------------------

function parts() {
  $("parts").replaceChildren(...state.head.parts.map((each) => {
    const item = el("li", each.state === "running" ? "" : each.state === "away" ? "away" : "as");
    const title = el("p");
    title.append(el("strong", "", each.name), " ", el("span", "state", each.state), ` for ${ago(each.since, state.at)}`);
    title.title = `since ${time(each.since)}`;
    item.append(title);
    if (each.why) item.append(el("p", "hurt", each.why));
    const told = [each.started_here ? (each.pid ? `process ${each.pid}` : "no process") : "runs elsewhere",
      each.restarts ? `started again ${many(each.restarts, "time")}` : ""].filter(Boolean).join(", ");
    item.append(el("p", "soft", told));
    const address = el("p", "soft");
    const href = each.sort === "broker" && reachable(each.api);
    if (href) {
      const link = address.appendChild(el("a", "", "its live page: topics, paths, members"));
      link.href = href;
    } else address.append(each.api);
    item.append(address);
    return item;
  }));
}

function draw() {
  const begins = begun(state);
  const name = state.head.controller ? state.head.controller.name : "";
  verdict(state, "Controller", name, () => well(name));
  if (!begins) return;
  figures(cells());
  findings(state);
  workflows();
  const held = $("parts").contains(document.activeElement);
  if (!held) parts();
  changes(state, state.head.controller.pid);
  put($("foot"), `As of ${time(state.at)}, ${state.link === "live" ? "live" : "not live"}. The same in a terminal: tempos workflow ls, show, top, logs.`);
}

const [state, drawn] = follow(Platform, draw);
$("find").addEventListener("input", drawn);
$("sort").addEventListener("change", drawn);
