// What the Controller tells, followed.
import { Live } from "/live.js";

export class Platform extends Live {
  constructor(changed) {
    super(changed);
    this.workflows = new Map(); // name -> workflow
  }

  take(step, whole) {
    if (whole) { this.workflows = new Map(); this.changes = []; }
    else if (this.at) this.between = Math.min(5000, (step.at - this.at) * 1000);
    const { at, workflows, gone, changes, ...head } = step;
    Object.assign(this.head, head);
    for (const each of workflows) this.workflows.set(each.name, each);
    for (const name of gone) this.workflows.delete(name);
    this.add(changes);
    this.taken(at);
  }
}
