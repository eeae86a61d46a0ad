// SPDX-License-Identifier: Apache-2.0
// Data on the wire: pure functions over bytes (section 2 of WIRE.md).

import * as abi from "./abi.ts";

/** A decoded `event` datagram; `bodies` are views into it. Numbers of 64 bits are bigints. */
export interface EventDatagram {
  readonly topic: number;
  readonly flags: number;
  readonly epoch: number;
  readonly publisher: number;
  readonly sequence: number;
  readonly deliverySequence: number;
  /** The publisher's wall clock, nanoseconds since 1970. */
  readonly sentNs: bigint;
  readonly envelope: Uint8Array | undefined;
  readonly bodies: readonly Uint8Array[];
}

/** A datagram that is none; `reason` is the word under which a broker counts it. */
export class WireError extends Error {
  readonly reason: string;

  constructor(reason: string) {
    super(`not an event datagram: ${reason}`);
    this.name = "WireError";
    this.reason = reason;
  }
}

export function isTopic(topic: number): boolean {
  return Number.isInteger(topic) && topic >= abi.TOPIC_MIN && topic <= abi.TOPIC_MAX && topic !== abi.WIDE;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function splitBatch(run: Uint8Array): Uint8Array[] {
  const bodies: Uint8Array[] = [];
  const at = view(run);
  for (let next = 0; next < run.length; ) {
    if (run.length - next < abi.BATCH_LENGTH_LEN) throw new WireError("BATCH");
    const begin = next + abi.BATCH_LENGTH_LEN;
    next = begin + at.getUint16(next);
    if (next > run.length) throw new WireError("BATCH");
    bodies.push(run.subarray(begin, next));
  }
  if (bodies.length === 0) throw new WireError("BATCH");
  return bodies;
}

function checkEnvelope(rest: Uint8Array, flags: number): void {
  const first = rest[0] ?? 0;
  const kind = first & 15;
  if (
    flags & abi.FLAG_BATCH ||
    rest.length < abi.ENVELOPE_LEN ||
    first >> 4 !== abi.ENVELOPE_VERSION ||
    (kind !== abi.KIND_REQUEST && kind !== abi.KIND_REPLY && kind !== abi.KIND_ERROR)
  )
    throw new WireError("BAD_ENVELOPE");
}

/** Decode an `event` datagram; throws WireError and nothing else, whatever the bytes. */
export function decodeEvent(datagram: Uint8Array): EventDatagram {
  if (datagram.length === 0) throw new WireError("EMPTY");
  const wide = datagram[0] === abi.WIDE;
  const header = wide ? abi.WIDE_HEADER_LEN : abi.EVENT_HEADER_LEN;
  if (datagram.length < header) throw new WireError("SHORT_HEADER");
  const at = view(datagram);
  const flagsAt = wide ? abi.WIDE_FLAGS_AT : abi.OFFSET_VERSION_FLAGS;
  const versionFlags = at.getUint8(flagsAt);
  if (versionFlags >> 4 !== abi.WIRE_VERSION) throw new WireError("BAD_VERSION");
  const reserved = wide
    ? at.getUint8(flagsAt + 1) | at.getUint8(flagsAt + 2) | at.getUint8(flagsAt + 3)
    : at.getUint8(abi.OFFSET_RESERVED);
  if (reserved !== 0) throw new WireError("RESERVED_BITS");
  const flags = versionFlags & 15;
  let rest = datagram.subarray(header);
  let envelope: Uint8Array | undefined;
  if (flags & abi.FLAG_ENVELOPE) {
    checkEnvelope(rest, flags);
    envelope = rest.subarray(0, abi.ENVELOPE_LEN);
    rest = rest.subarray(abi.ENVELOPE_LEN);
  }
  const topic = wide ? at.getUint16(1) : at.getUint8(0);
  if (!isTopic(topic) || (wide && topic < abi.NARROW)) throw new WireError("RESERVED_TOPIC");
  return {
    topic,
    flags,
    epoch: at.getUint8(abi.OFFSET_EPOCH),
    publisher: at.getUint32(abi.OFFSET_PUBLISHER),
    sequence: at.getUint32(abi.OFFSET_SEQUENCE),
    deliverySequence: at.getUint32(abi.OFFSET_DELIVERY_SEQUENCE),
    sentNs: at.getBigUint64(abi.OFFSET_SENT_NS),
    envelope,
    bodies: flags & abi.FLAG_BATCH ? splitBatch(rest) : [rest],
  };
}

/**
 * The report of a probe, made of the probe itself (section 2.4 of WIRE.md); undefined where it cannot be answered.
 * `clock`: the name of this machine's clock, 8 bytes; times are wall clocks in nanoseconds.
 */
export function report(
  probe: Uint8Array,
  receivedNs: bigint,
  sentNs: bigint,
  clock: Uint8Array,
  ip: string,
  port: number,
  group: string,
): Uint8Array | undefined {
  const envelope = probe[0] === abi.WIDE ? abi.WIDE_HEADER_LEN : abi.EVENT_HEADER_LEN;
  const body = envelope + abi.ENVELOPE_LEN;
  const room = Math.min(255, probe.length - body - abi.PROBE_LEN);
  if (room < 0 || probe[body] !== abi.PROBE_VERSION_1) return undefined;
  const name = new Uint8Array(room);
  const { written } = new TextEncoder().encodeInto(group, name);
  const made = probe.slice(0, body + abi.PROBE_LEN + written);
  const at = view(made);
  at.setBigUint64(abi.OFFSET_SENT_NS, sentNs);
  made[envelope] = (abi.ENVELOPE_VERSION << 4) | abi.KIND_REPLY;
  made.fill(0, body + abi.PROBE_MARKS_LEN);
  made.set(clock.subarray(0, 8), body + abi.PROBE_CLOCK);
  at.setBigUint64(body + abi.PROBE_RECEIVED_NS, receivedNs);
  made.set(ip.split(".").map(Number), body + abi.PROBE_IP);
  at.setUint16(body + abi.PROBE_PORT, port);
  made[body + abi.PROBE_GROUP_LEN] = written;
  made.set(name.subarray(0, written), body + abi.PROBE_LEN);
  return made;
}

/** What stands before the body of a `raw` datagram. */
export function rawHeader(topic: number): Uint8Array {
  return topic < abi.NARROW ? Uint8Array.of(topic) : Uint8Array.of(abi.WIDE, topic >> 8, topic & 255);
}

/** One `event` datagram; epoch and delivery sequence are the broker's to stamp. Throws RangeError. */
export function encodeEvent(
  topic: number,
  publisher: number,
  sequence: number,
  sentNs: bigint,
  body: Uint8Array,
  flags = 0,
): Uint8Array {
  if (!isTopic(topic)) throw new RangeError(`topic id ${topic} is not in 1-254 or 256-${abi.TOPIC_MAX}`);
  const wide = topic >= abi.NARROW;
  const header = wide ? abi.WIDE_HEADER_LEN : abi.EVENT_HEADER_LEN;
  const datagram = new Uint8Array(header + body.length);
  const at = view(datagram);
  datagram.set(rawHeader(topic));
  at.setUint8(wide ? abi.WIDE_FLAGS_AT : abi.OFFSET_VERSION_FLAGS, (abi.WIRE_VERSION << 4) | (flags & 15));
  at.setUint32(abi.OFFSET_PUBLISHER, publisher >>> 0);
  at.setUint32(abi.OFFSET_SEQUENCE, sequence >>> 0);
  at.setBigUint64(abi.OFFSET_SENT_NS, sentNs);
  datagram.set(body, header);
  return datagram;
}

/** The run of a batch: each body behind its length. Throws RangeError for one that is too long. */
export function joinBatch(bodies: readonly Uint8Array[]): Uint8Array {
  const run = new Uint8Array(bodies.reduce((sum, body) => sum + abi.BATCH_LENGTH_LEN + body.length, 0));
  const at = view(run);
  let next = 0;
  for (const body of bodies) {
    if (body.length > 0xffff) throw new RangeError(`a batched body has ${body.length} bytes, 65535 are allowed`);
    at.setUint16(next, body.length);
    run.set(body, next + abi.BATCH_LENGTH_LEN);
    next += abi.BATCH_LENGTH_LEN + body.length;
  }
  return run;
}
