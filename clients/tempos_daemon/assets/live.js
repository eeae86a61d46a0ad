// What a daemon tells, followed: the state once, then steps, which `take` of a class over this one knows. Knows nothing of the page.
// States: "asking", "live", "stale" (nothing heard for a while: it goes on trying), "token" (it wants one).

const QUIET = 4000; // ms without a step after which it is stale, beyond what steps have taken lately

export class Live {
  constructor(changed) {
    this.changed = changed;
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

  // The last hundred of what changed, with these.
  add(changes) {
    const newer = new Set(changes.map((each) => each.number));
    const grown = (each) => changes.some((one) => one.at === each.at && one.kind === each.kind && one.number !== each.number);
    this.changes = [...this.changes.filter((each) => !newer.has(each.number) && !grown(each)), ...changes].slice(-100);
  }

  // A step was taken: it holds what was so `at`, Unix seconds.
  taken(at) {
    this.at = at;
    this.heard = Date.now();
    this.trouble = "";
    this.link = "live";
    this.changed();
  }
}
