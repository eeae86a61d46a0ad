// SPDX-License-Identifier: Apache-2.0
import type { RemoteInfo, Socket } from "node:dgram";
import { readFileSync } from "node:fs";

import * as abi from "./abi.ts";
import { AGAIN, Gaps, type Count } from "./gaps.ts";
import { Link, NoAnswer, numberIn, Refused, topicIn, udp, type Broker, type Topic } from "./link.ts";
import type { Table } from "./pack.ts";
import { decodeEvent, rawHeader, report, WireError } from "./wire.ts";

const DAY_MS = 86_400_000;
/** Epochs in one report: what fits a request, whatever the group is called. */
const TOLD_AT_ONCE = 8;
/** Events that wait for the program, at most. */
const QUEUE = 10_000;
/** What publishers have told is of no use here. */
const USELESS = 2n ** 64n - 1n;
/** The broker's service datagram that asks who receives here: kind, and bytes of the proof. */
const PROOF_KIND = 1;
const PROOF_AT = 10;
const PROOF_LEN = 16;
const PROOF_WAIT_MS = 5000;
/** Proofs that a broker may want before it is asked too much of. */
const PROOFS = 4;

/** The name of this machine's clock: 8 bytes, 0 where it is not known. */
function clockName(): Uint8Array {
  try {
    const text = readFileSync("/proc/sys/kernel/random/boot_id", "ascii");
    return Buffer.from(text.replaceAll("-", "").slice(0, 16), "hex");
  } catch {
    return new Uint8Array(8);
  }
}

const wallClock = (): bigint => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;

/** One event, as its publisher gave it. */
export interface Event {
  readonly topic: string;
  readonly body: Uint8Array;
  /** Datagrams that are missing directly before this one. */
  readonly missed: number;
  readonly publisher: number | undefined;
  readonly sequence: number | undefined;
  readonly sentNs: bigint | undefined;
}

/**
 * A member of a group of a topic: `for await (const event of subscriber)`. Heartbeats go by themselves; after a
 * broker has lost its memory, or our address is another one, it becomes a member again; a broker that is silent is
 * asked on.
 */
export class Subscriber implements AsyncIterable<Event> {
  readonly gaps = new Gaps();
  /** Datagrams that were no event of this topic; those of a raw topic; how often it had to join again. */
  unknown = 0;
  datagrams = 0;
  rejoined = 0;
  /** Datagrams from anywhere but the broker's data port. */
  foreign = 0;
  /** Events that came while the program had not taken those before. */
  dropped = 0;
  readonly #link: Link;
  readonly #socket: Socket;
  readonly #name: string;
  readonly #wanted: string | undefined;
  #topic: Topic | undefined;
  #group = "";
  #instance: number | undefined;
  /** Our address as a member, and where we were one before, as long as that may not be over. */
  #ours = "";
  #former: [string, number][] = [];
  #heartbeatMs = 2500;
  #timer: NodeJS.Timeout | undefined;
  #proof: ((proof: Uint8Array) => void) | undefined;
  #from: string | undefined;
  /** What came from there before the answer that it is a member: the two take different ways. */
  #early: [Uint8Array, string][] = [];
  #queue: Event[] = [];
  #wake: (() => void) | undefined;
  #failure: Error | undefined;
  #closed = false;

  private constructor(link: Link, socket: Socket, topic: string, group: string | undefined) {
    this.#link = link;
    this.#socket = socket;
    this.#name = topic;
    this.#wanted = group;
    socket.on("message", (datagram, from) => this.#receive(datagram, from));
  }

  /** Become a member; no group means one of its own, which gets every event. Throws Refused or NoAnswer. */
  static async open(broker: Broker, topic: string, group?: string): Promise<Subscriber> {
    const subscriber = new Subscriber(await Link.open(broker), await udp(), topic, group);
    try {
      await subscriber.#join();
    } catch (error) {
      subscriber.#shut();
      throw error;
    }
    return subscriber;
  }

  get group(): string {
    return this.#group;
  }

  get received(): number {
    return this.#topic?.raw ? this.datagrams : this.gaps.received;
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Event> {
    for (;;) {
      const event = this.#queue.shift();
      if (event !== undefined) yield event;
      else if (this.#failure !== undefined) throw this.#failure;
      else if (this.#closed) return;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  /** Leave, and tell the last counts; an iteration ends behind what has come. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    try {
      // Only one datagram can say goodbye; what does not fit beside it goes ahead.
      for (let last = false; !last; ) {
        const told = this.gaps.report().slice(0, TOLD_AT_ONCE);
        last = told.length < TOLD_AT_ONCE;
        await this.#link.ask(last ? "goodbye" : "heartbeat", this.#telling(told));
        for (const each of told) this.gaps.acknowledge(each);
      }
    } finally {
      this.#shut();
    }
  }

  #shut(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#link.close();
    this.#socket.close();
    this.#wake?.();
  }

  async #join(): Promise<void> {
    if (this.#ours !== "" && this.#link.ours !== this.#ours) this.#former = [[this.#ours, this.#socket.address().port]];
    const ok = await this.#subscribe();
    const instance = numberIn(ok, "instance", 0xffffffff);
    this.#topic = topicIn(ok);
    this.#group = String(ok["group"]);
    this.#heartbeatMs = Math.max(20, numberIn(ok, "heartbeat_ms", DAY_MS));
    if (this.#instance !== undefined && this.#instance !== instance) this.gaps.newBroker();
    this.#instance = instance;
    this.gaps.inForce(numberIn(ok, "epoch", 0xffffffff));
    this.#ours = this.#link.ours;
    for (const [datagram, address] of this.#early.splice(0)) this.#receiveOf(this.#topic, datagram, address);
    // The broker books what came at the former place before that account is settled.
    if (this.#former.length > 0) this.gaps.tellAgain();
    this.#schedule(this.#former.length > 0 ? 0 : this.#heartbeatMs);
  }

  /**
   * A broker sends events only to who has shown that it receives them: that its address is its own, by what comes with a
   * refusal, then that its port is, by what comes there.
   */
  async #subscribe(): Promise<Table> {
    const fields = { topic: this.#name, port: this.#socket.address().port, group: this.#wanted };
    // An empty one asks for a proof: what brings it tells where events will come from.
    let proof: Uint8Array | undefined = new Uint8Array();
    for (let left = PROOFS; ; left--) {
      const arrives = this.#arriving();
      try {
        return await this.#link.ask("subscribe", { ...fields, ...this.#elsewhere(), proof });
      } catch (error) {
        if (!(error instanceof Refused) || error.code !== "prove" || left === 0) throw error;
        proof = error.proof ?? (await arrives.proof);
        if (proof === undefined)
          throw new NoAnswer(`nothing arrives at UDP port ${fields.port} from the broker at ${this.#link.where}`);
      } finally {
        arrives.forget();
      }
    }
  }

  /** The proof that arrives at the port from now on; undefined if none does in time. */
  #arriving(): { proof: Promise<Uint8Array | undefined>; forget: () => void } {
    let timer: NodeJS.Timeout | undefined;
    const proof = new Promise<Uint8Array | undefined>((resolve) => {
      this.#proof = resolve;
      timer = setTimeout(() => resolve(undefined), PROOF_WAIT_MS);
    });
    return {
      proof,
      forget: () => {
        clearTimeout(timer);
        this.#proof = undefined;
      },
    };
  }

  /** Where we were a member: that ends, and its counts are told from here. */
  #elsewhere(): Table {
    return this.#former.length > 0 ? { former: this.#former } : {};
  }

  #schedule(after = this.#heartbeatMs): void {
    clearTimeout(this.#timer);
    if (!this.#closed) this.#timer = setTimeout(() => void this.#heartbeat(), after);
  }

  async #heartbeat(): Promise<void> {
    this.#schedule();
    const told = this.gaps.report().slice(0, TOLD_AT_ONCE);
    const former = this.#former;
    try {
      const ok = await this.#link.ask("heartbeat", this.#telling(told));
      for (const each of told) this.gaps.acknowledge(each);
      if (former === this.#former) this.#former = [];
      const rows = Array.isArray(ok["epochs"]) ? ok["epochs"] : [];
      const mine = rows.find((row) => Array.isArray(row) && row[0] === this.#topic?.id);
      const epoch = Array.isArray(mine) ? mine[1] : undefined;
      if (typeof epoch === "number") this.gaps.inForce(epoch);
      else await this.#again();
    } catch (error) {
      // A broker that is silent is asked again by the next heartbeat.
      if (this.#closed || error instanceof NoAnswer) return;
      if (error instanceof Refused && error.code === "unknown member") {
        await this.#again().catch((failure: Error) => this.#fail(failure));
        return;
      }
      this.#fail(error as Error);
    }
  }

  async #again(): Promise<void> {
    this.rejoined += 1;
    try {
      await this.#join();
    } catch (error) {
      if (!(error instanceof NoAnswer)) throw error;
    }
  }

  #fail(error: Error): void {
    this.#failure = error;
    this.#wake?.();
  }

  #telling(told: readonly Count[]): Table {
    const id = this.#topic?.id ?? 0;
    const received = this.#topic?.raw
      ? [[id, this.#group, 0, this.datagrams]]
      : told.map((each) => [id, this.#group, each.epoch, each.datagrams]);
    return {
      port: this.#socket.address().port,
      ...this.#elsewhere(),
      full: true,
      instance: this.#instance,
      topics: [[id, USELESS]],
      received,
    };
  }

  #receive(datagram: Uint8Array, { address, port }: RemoteInfo): void {
    const from = `${address}:${port}`;
    if (datagram[0] === 0 && datagram[1] === PROOF_KIND && datagram.length === PROOF_AT + PROOF_LEN) {
      const client = Buffer.from(datagram.buffer, datagram.byteOffset + 2, 8).readBigUInt64BE();
      if (client !== this.#link.client || this.#proof === undefined) return;
      // From there events come, and from nowhere else.
      this.#from = from;
      this.#proof(datagram.subarray(PROOF_AT));
      return;
    }
    if (this.#from !== undefined && from !== this.#from) {
      this.foreign += 1;
      return;
    }
    if (this.#topic !== undefined) this.#receiveOf(this.#topic, datagram, address);
    else if (this.#from !== undefined && this.#early.length < QUEUE) this.#early.push([datagram, address]);
  }

  #receiveOf(topic: Topic, datagram: Uint8Array, address: string): void {
    if (topic.raw) this.#receiveRaw(topic, datagram);
    else this.#receiveEvent(topic, datagram, address);
    this.#wake?.();
  }

  #receiveRaw(topic: Topic, datagram: Uint8Array): void {
    const head = rawHeader(topic.id);
    if (head.some((byte, at) => datagram[at] !== byte)) {
      this.unknown += 1;
      return;
    }
    this.datagrams += 1;
    const body = datagram.subarray(head.length);
    const nobody = { publisher: undefined, sequence: undefined, sentNs: undefined };
    this.#put({ topic: topic.name, body, missed: 0, ...nobody });
  }

  #put(event: Event): void {
    if (this.#queue.length < QUEUE) this.#queue.push(event);
    else this.dropped += 1;
  }

  /** Tell who sent a probe, by way of the broker, that it has come; nobody waits for it here. */
  #report(probe: Uint8Array, envelope: Uint8Array, receivedNs: bigint, broker: string): void {
    const dataPort = Buffer.from(envelope).readUInt16BE(abi.ENVELOPE_DATA_PORT);
    const { port } = this.#socket.address();
    const made = report(probe, receivedNs, wallClock(), clockName(), this.#link.ours, port, this.#group);
    if (made !== undefined) this.#socket.send(made, dataPort, broker, () => undefined);
  }

  #receiveEvent(topic: Topic, datagram: Uint8Array, broker: string): void {
    const receivedNs = wallClock();
    try {
      const found = decodeEvent(datagram);
      if (found.topic !== topic.id) throw new WireError("OTHER_TOPIC");
      const seen = this.gaps.see(found.epoch, found.deliverySequence);
      // A datagram that has come before is counted and given to nobody.
      if (seen === AGAIN) return;
      // A probe has come like any event, and is of no use to the program.
      if (found.flags & abi.FLAG_TRACE && found.envelope !== undefined) {
        if ((found.envelope[0] ?? 0) % 16 === abi.KIND_REQUEST)
          this.#report(datagram, found.envelope, receivedNs, broker);
        return;
      }
      const { publisher, sentNs } = found;
      for (const [index, body] of found.bodies.entries())
        this.#put({
          topic: topic.name,
          body,
          missed: index === 0 ? Math.max(0, seen) : 0,
          publisher,
          sequence: (found.sequence + index) >>> 0,
          sentNs,
        });
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      this.unknown += 1;
    }
  }
}
