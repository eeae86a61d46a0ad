// What the broker tells, followed: the state once, then steps. Knows nothing of the page.
// States: "asking", "live", "stale" (nothing heard for a while: it goes on trying), "token" (it wants one).

const QUIET = 4000; // ms without a step after which it is stale, beyond what steps have taken lately

export class State {
  constructor(changed) {
    this.changed = changed;
    this.topics = new Map(); // id -> topic, with .rate: events/s in, .outs: group -> deliveries/s
    this.head = {};
    this.changes = [];
    this.token = sessionStorage.getItem("token") || "";
    this.link = "asking";
    this.heard = 0;
    this.between = 1000;
    this.wake = () => {};
  }

  async ask(path, signal) {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    return fetch(path, { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  }

  use(token) {
    this.token = token;
    sessionStorage.setItem("token", token);
    this.wake();
  }

  set(link) {
    if (this.link === link) return;
    this.link = link;
    this.changed();
  }

  async follow() {
    for (let wait = 250; ; wait = Math.min(wait * 2, 2000)) {
      const given = new AbortController();
      const watch = setInterval(() => {
        if (Date.now() - this.heard > QUIET + 3 * this.between) { given.abort(); if (this.heard) this.set("stale"); }
      }, 500);
      try {
        this.heard = Math.max(this.heard, Date.now() - QUIET / 2);
        const answer = await this.ask("/v1/events", given.signal);
        if (answer.status === 401) {
          const again = new Promise((wake) => { this.wake = wake; });
          this.wrongToken = Boolean(this.token);
          this.set("token");
          await again;
          this.set("asking");
          wait = 125;
          continue;
        }
        if (!answer.ok) throw new Error((await answer.json()).detail);
        wait = 125;
        await this.read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
      } catch (error) {
        this.trouble = error.name === "AbortError" ? "" : error.message;
      } finally {
        clearInterval(watch);
        given.abort();
      }
      this.set("stale");
      await new Promise((wake) => setTimeout(wake, wait));
    }
  }

  async read(reader) {
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const each of events) {
        const data = each.split("\n").find((line) => line.startsWith("data: "));
        if (data) this.take(JSON.parse(data.slice(6)), each.startsWith("event: state"));
      }
    }
  }

  take(step, whole) {
    const former = whole ? this.topics : null;
    if (whole) { this.topics = new Map(); this.changes = []; }
    else if (this.at) this.between = Math.min(5000, (step.at - this.at) * 1000);
    const seconds = this.at ? step.at - this.at : 0;
    const same = !whole || (this.head.broker && this.head.broker.pid === step.broker.pid);
    const { at, topics, gone, changes, ...head } = step;
    Object.assign(this.head, head);
    const told = new Set();
    for (const topic of topics) {
      const before = (former || this.topics).get(topic.id);
      told.add(topic.id);
      this.topics.set(topic.id, rated(topic, same ? before : undefined, seconds));
    }
    for (const [id, topic] of this.topics) if (!told.has(id)) rated(topic, topic, seconds || 1);
    for (const id of gone) this.topics.delete(id);
    const newer = new Set(changes.map((each) => each.number));
    const grown = (each) => changes.some((one) => one.at === each.at && one.kind === each.kind && one.number !== each.number);
    this.changes = [...this.changes.filter((each) => !newer.has(each.number) && !grown(each)), ...changes].slice(-100);
    this.at = at;
    this.heard = Date.now();
    this.trouble = "";
    this.link = "live";
    this.changed();
  }
}

function rated(topic, before, seconds) {
  const per = (now, then) => (before && seconds > 0 ? Math.max(0, (now - then) / seconds) : 0);
  const known = new Map(((before && before.groups) || []).map((group) => [group.name, group]));
  const was = before ? before.received : 0;
  const outs = new Map(topic.groups.map((group) => [group.name, known.has(group.name)
    ? per(group.tickets, known.get(group.name).tickets) : 0]));
  const sum = (key) => topic.groups.reduce((total, group) => total + (group[key] || 0), 0);
  topic.rate = per(topic.received, was);
  topic.outs = outs;
  topic.out = [...outs.values()].reduce((a, b) => a + b, 0);
  topic.gone = sum("lost") + sum("dropped") + topic.lost_before.at_least
    + Object.values(topic.lost).reduce((a, b) => a + b, 0);
  topic.members = sum("members");
  const latency = topic.latency && (topic.latency.since_sent || topic.latency.program);
  topic.late = latency ? latency.p99_ns : null;
  return topic;
}
