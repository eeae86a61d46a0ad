// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from "node:crypto";
import type { Socket } from "node:dgram";

import * as abi from "./abi.ts";
import { Link, topicIn, udp, type Broker, type Topic } from "./link.ts";
import { encodeEvent, rawHeader } from "./wire.ts";

const EPOCH_NS = BigInt(Date.now()) * 1_000_000n - process.hrtime.bigint();

/** Sends events of one topic. */
export class Publisher {
  readonly topic: Topic;
  readonly #socket: Socket;
  readonly #publisher = randomBytes(4).readUInt32BE();
  #sequence = 0;

  private constructor(topic: Topic, socket: Socket) {
    this.topic = topic;
    this.#socket = socket;
  }

  /** Find a topic at a broker; throws Refused or NoAnswer. */
  static async open(broker: Broker, topic: string): Promise<Publisher> {
    const link = await Link.open(broker);
    try {
      const found = topicIn(await link.ask("resolve", { topic }));
      return new Publisher(found, await udp(broker.address, broker.dataPort ?? abi.DATA_PORT));
    } finally {
      link.close();
    }
  }

  /** Hand one event to the kernel. It is on its way then, no more: UDP may lose it. */
  async publish(body: Uint8Array | string): Promise<void> {
    const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
    const now = EPOCH_NS + process.hrtime.bigint();
    const datagram = this.topic.raw
      ? Buffer.concat([rawHeader(this.topic.id), bytes])
      : encodeEvent(this.topic.id, this.#publisher, this.#sequence, now, bytes);
    this.#sequence = (this.#sequence + 1) >>> 0;
    await this.#send(datagram).catch((error: NodeJS.ErrnoException) => {
      // The error of a datagram of before: this one has not been sent yet.
      if (error.code !== "ECONNREFUSED") throw error;
      return this.#send(datagram);
    });
  }

  close(): void {
    this.#socket.close();
  }

  #send(datagram: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.send(datagram, (error) => (error ? reject(error) : resolve()));
    });
  }
}
