// SPDX-License-Identifier: Apache-2.0
// Holds this client against the test vectors: node dist/test/vectors.js FOLDER; exit code 1 where they differ.
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { Gaps } from "../src/gaps.ts";
import { pack, unpack, type Value } from "../src/pack.ts";
import { decodeEvent, encodeEvent, WireError } from "../src/wire.ts";

const folder = process.argv[2] ?? "../vectors";
// eslint-disable-next-line @typescript-eslint/no-explicit-any
const read = (name: string): any => JSON.parse(readFileSync(join(folder, name), "utf8"));
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const bytes = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, "hex"));

function decoded(text: string): object {
  try {
    const { sentNs, envelope, bodies, deliverySequence, ...rest } = decodeEvent(bytes(text));
    return {
      event: {
        ...rest,
        delivery_sequence: deliverySequence,
        sent_ns: String(sentNs),
        envelope: envelope === undefined ? null : hex(envelope),
        bodies: bodies.map(hex),
      },
    };
  } catch (error) {
    if (error instanceof WireError) return { refused: error.reason };
    throw error;
  }
}

function counted(steps: [string, ...number[]][]): object {
  const gaps = new Gaps();
  const results: (number | undefined)[] = [];
  for (const [step, first = 0, second = 0] of steps) {
    if (step === "in_force") gaps.inForce(first);
    else if (step === "new_broker") gaps.newBroker();
    else if (step === "acknowledge") gaps.acknowledge({ epoch: first, datagrams: second });
    else results.push(gaps.see(first, second));
  }
  const { received, missed, late, duplicates, unstamped } = gaps;
  const report = gaps
    .report()
    .map((row) => [row.epoch, row.datagrams])
    .sort(([a = 0], [b = 0]) => a - b);
  return { results, end: { received, missed, late, duplicates, unstamped, report } };
}

/** What JSON has no way to say stands as {"hex": ...} or {"u64": ...} in the vectors. */
function plain(value: Value): unknown {
  if (value instanceof Uint8Array) return { hex: hex(value) };
  if (typeof value === "bigint") return { u64: String(value) };
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === "object" && value !== null)
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]));
  return value;
}

const faults: string[] = [];
let count = 0;

function check(name: string, got: unknown, wanted: unknown): void {
  count += 1;
  try {
    deepStrictEqual(got, wanted);
  } catch (error) {
    faults.push(`${name}: ${(error as Error).message}`);
  }
}

const data = read("data.json");
for (const { name, hex: datagram, ...wanted } of data.decode) check(name, decoded(datagram), wanted);
for (const { name, topic, publisher, sequence, sent_ns, flags, body, hex: wanted } of data.encode)
  check(name, hex(encodeEvent(topic, publisher, sequence, BigInt(sent_ns), bytes(body), flags)), wanted);
for (const { name, steps, end } of read("gaps.json").gaps) {
  const results = steps.filter((step: unknown[]) => step[0] === "see").map((step: unknown[]) => step[3]);
  check(name, counted(steps), { results, end });
}
for (const { name, hex: datagram, message } of read("control.json").datagrams) {
  const value = unpack(bytes(datagram));
  check(name, plain(value), message);
  check(`${name}, packed again`, plain(unpack(pack(value))), message);
}
for (const fault of faults) console.error(fault);
console.log(`${count} vectors, ${faults.length} differ`);
process.exitCode = faults.length > 0 ? 1 : 0;
