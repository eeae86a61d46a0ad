#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// tempos-client pub ADDRESS TOPIC [CONTROL-PORT [DATA-PORT]]: publishes each line of standard input.
// tempos-client sub ADDRESS TOPIC [GROUP|- [COUNT [CONTROL-PORT]]]: prints events, a line each, until standard input
// ends or so many have come; what was lost stands in the last line, on standard error.
import { createInterface } from "node:readline";

import { Publisher } from "./publisher.ts";
import { Subscriber } from "./subscriber.ts";
import type { Broker } from "./link.ts";

const USAGE = `usage: tempos-client pub ADDRESS TOPIC [CONTROL-PORT [DATA-PORT]]
       tempos-client sub ADDRESS TOPIC [GROUP|- [COUNT [CONTROL-PORT]]]`;

function at(address: string, controlPort?: string, dataPort?: string): Broker {
  return {
    address,
    ...(controlPort === undefined ? {} : { controlPort: Number(controlPort) }),
    ...(dataPort === undefined ? {} : { dataPort: Number(dataPort) }),
  };
}

async function pub(address: string, topic: string, controlPort?: string, dataPort?: string): Promise<void> {
  const publisher = await Publisher.open(at(address, controlPort, dataPort), topic);
  for await (const line of createInterface({ input: process.stdin })) await publisher.publish(line);
  publisher.close();
}

async function sub(address: string, topic: string, group = "-", count = "0", port?: string): Promise<void> {
  const subscriber = await Subscriber.open(at(address, port), topic, group === "-" ? undefined : group);
  console.error(`subscribed to ${topic} in group ${subscriber.group}`);
  let left = Number(count);
  const counted = left > 0;
  if (!counted) process.stdin.resume().once("end", () => void subscriber.close());
  for await (const event of subscriber) {
    console.log(Buffer.from(event.body).toString());
    if (counted && --left === 0) break;
  }
  await subscriber.close();
  const { received, gaps, unknown, foreign, rejoined, dropped } = subscriber;
  console.error(
    `received ${received}, missed ${gaps.missed}, late ${gaps.late}, duplicates ${gaps.duplicates}, ` +
      `unknown ${unknown}, foreign ${foreign}, rejoined ${rejoined}, dropped ${dropped}`,
  );
}

const [what, address, topic, ...rest] = process.argv.slice(2);
if (address === undefined || topic === undefined || (what !== "pub" && what !== "sub")) {
  console.error(USAGE);
  process.exitCode = 2;
} else {
  await (what === "pub" ? pub : sub)(address, topic, ...rest).catch((error: Error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
