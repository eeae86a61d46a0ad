// What the pages of all daemons show alike. Rule: what a daemon tells is only ever put in as text.

export const $ = (id) => document.getElementById(id);
export const count = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

export function el(tag, cls, text) {
  const made = document.createElement(tag);
  if (cls) made.className = cls;
  if (text !== undefined) made.textContent = text;
  return made;
}
export const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
export const rate = (n) => (n === null || n === undefined ? "–" : n === 0 ? "0" : n < 10 ? n.toFixed(1) : count.format(Math.round(n)));
export const many = (n, what, more = `${what}s`) => `${count.format(n)} ${n === 1 ? what : more}`;
const day = new Intl.DateTimeFormat("en", { weekday: "short", day: "numeric", month: "short" });
// With its day, where that is not this one.
export const time = (unix, at = Date.now() / 1000) => {
  const [then, now] = [new Date(unix * 1000), new Date(at * 1000)];
  return `${then.toDateString() === now.toDateString() ? "" : `${day.format(then)} `}${clock.format(then)}`;
};
// When it happened, for all that is known: what was so at the first look happened before.
const when = (each, unix) => `${each.before && unix <= each.since ? "before " : ""}${time(Math.max(unix, each.since))}`;

// How long it is from then to `at`, in words.
export function ago(unix, at) {
  const s = Math.max(0, at - unix);
  const [n, unit] = s < 90 ? [s, "s"] : s < 5400 ? [s / 60, "min"] : s < 129600 ? [s / 3600, "h"] : [s / 86400, "days"];
  return `${Math.round(n)} ${unit}`;
}

// The first line: is anything wrong, since when, what to do. `daemon`: what is asked; `well`: the detail if nothing is wrong.
export function verdict(state, daemon, name, well) {
  const wrong = (state.head.wrong || []).filter((each) => each.severity === "warning" || each.severity === "fault");
  const now = wrong.filter((each) => each.now);
  const [first] = now.length ? now : wrong;
  let mood = "good", line = "Nothing is wrong", detail = "", fix = "";
  if (state.link === "token") [mood, line] = ["waiting", `This ${daemon} asks for a token`];
  else if (!state.at) [mood, line] = ["waiting", state.link === "stale" ? `The ${daemon} does not answer` : `Asking the ${daemon}…`];
  else if (first) {
    const others = (now.length ? now : wrong).length - 1;
    const what = `${first.name}: ${first.subject || name}`;
    mood = !now.length ? "was" : first.severity === "fault" ? "bad" : "warning";
    line = now.length ? `${what}${others ? `, and ${many(others, "more finding")}` : ""}` : "Nothing goes wrong now";
    detail = now.length ? `${first.cause} – since ${when(first, first.since)} (${ago(first.since, state.at)}) – ${first.means}`
      : `Last: ${what}, ${first.cause}, ${first.before && first.changed <= first.since ? "" : "at "}${when(first, first.changed)} (${ago(Math.max(first.changed, first.since), state.at)} ago)`;
    fix = first.fix;
  } else detail = well();
  const head = $("verdict");
  head.dataset.state = mood;
  put($("headline"), line);
  put($("detail"), detail);
  $("remedy").hidden = !fix;
  put($("remedy").lastElementChild, fix);
  const stale = state.link === "stale";
  head.toggleAttribute("data-stale", stale && Boolean(state.at));
  $("stale").hidden = !stale;
  put($("stale"), !stale ? "" : `Not live: ${state.trouble || `the ${daemon} does not answer`}. ${state.at
    ? `This is as it was at ${time(state.at)}; ` : ""}trying again.`);
  document.title = `${mood === "bad" || mood === "warning" ? "⚠ " : ""}${name || "tempos"}${stale ? " (not live)" : ""}`;
}

// Each cell: a name, a value, and more in small.
export function figures(cells) {
  const list = $("figures");
  while (list.children.length < cells.length) {
    const cell = list.appendChild(el("div"));
    cell.append(el("dt"), el("dd"));
    cell.lastChild.append("", el("small"));
  }
  cells.forEach(([name, value, more], at) => {
    const [dt, dd] = list.children[at].children;
    put(dt, name);
    if (dd.firstChild.data !== value) dd.firstChild.data = value;
    put(dd.lastElementChild, more);
  });
}

export function findings(state) {
  const wrong = state.head.wrong || [];
  $("findings").hidden = !wrong.length;
  $("wrong").replaceChildren(...wrong.map((each) => {
    const item = el("li", `${each.severity}${each.now ? "" : " past"}`);
    const title = el("p");
    title.append(el("strong", "", `${each.code} ${each.name}`), ` ${each.subject}: ${each.cause}`);
    const last = each.changed > each.since ? `, last ${ago(each.changed, state.at)} ago` : "";
    item.append(title, el("p", "soft", `${each.means} (since ${when(each, each.since)}${last})`));
    if (each.fix) item.append(el("code", "", each.fix));
    return item;
  }));
}

let told = "";
// `life`: what is another one in another life of the daemon, whose numbers begin anew.
export function changes(state, life) {
  const last = state.changes.length ? state.changes[state.changes.length - 1].number : 0;
  const now = `${life} ${last}`;
  if (now === told) return;
  told = now;
  $("changes").replaceChildren(...[...state.changes].reverse().map((each) => {
    const item = el("li", each.severity);
    const moment = el("time", "", time(Date.parse(each.at) / 1000));
    moment.dateTime = each.at;
    moment.title = each.at;
    item.append(moment, el("span", "kind", each.kind), el("span", "", each.text));
    return item;
  }));
}

// The form that asks for the token; whether there is anything to show.
export function begun(state) {
  $("ask").hidden = state.link !== "token";
  put($("refused"), state.link === "token" && state.wrongToken ? "This is not the token." : "");
  if (state.link === "token" && document.activeElement === document.body) $("token").focus();
  $("all").hidden = !state.at;
  return Boolean(state.at);
}

// Has the state of a class made and followed, and the page drawn at most once a frame.
export function follow(State, draw) {
  let drawing = false;
  const drawn = () => {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => { drawing = false; draw(state); });
  };
  const state = new State(drawn);
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    state.use($("token").value.trim());
    $("token").value = "";
  });
  state.follow();
  return [state, drawn];
}
