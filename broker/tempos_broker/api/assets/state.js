// What the broker tells, followed.
import { Live } from "/live.js";

export class State extends Live {
  constructor(changed) {
    super(changed);
    this.topics = new Map(); // id -> topic, with .rate: events/s in, .outs: group -> deliveries/s
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
    this.add(changes);
    this.taken(at);
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
  // What is over its rate is refused, and told as that.
  topic.gone = sum("lost") + sum("dropped") + Math.max(0, topic.lost_before.at_least - (topic.refused.over_rate || 0))
    + Object.values(topic.lost).reduce((a, b) => a + b, 0);
  topic.members = sum("members");
  const { since_sent: sent, program, slow, slow_since_sent: slowSent } = topic.latency || {};
  const latency = topic.path === "slow" ? slowSent || slow || sent || program : sent || program || slowSent || slow;
  topic.late = latency ? latency.p99_ns : null;
  return topic;
}
