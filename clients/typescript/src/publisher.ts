// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from "node:crypto";

import * as abi from "./abi.ts";
import { Connected, Link, topicIn, type Broker, type Topic } from "./link.ts";
import { encodeEvent, rawHeader } from "./wire.ts";

const EPOCH_NS = BigInt(Date.now()) * 1_000_000n - process.hrtime.bigint();

/** Sends events of one topic. */
export class Publisher {
  readonly topic: Topic;
  readonly #socket: Connected;
  readonly #publisher = randomBytes(4).readUInt32BE();
  #sequence = 0;

  private constructor(topic: Topic, socket: Connected) {
    this.topic = topic;
    this.#socket = socket;
  }

  /** Find a topic at a broker; throws Refused or NoAnswer. */
  static async open(broker: Broker, topic: string): Promise<Publisher> {
    const link = await Link.open(broker);
    try {
      const found = topicIn(await link.ask("resolve", { topic }));
      return new Publisher(found, await Connected.open(broker.address, broker.dataPort ?? abi.DATA_PORT));
    } finally {
      link.close();
    }
  }

  /**
   * Hand one event to the kernel. It is on its way then, no more: UDP may lose it. Throws where there is no way now;
   * the next call may find one.
   */
  async publish(body: Uint8Array | string): Promise<void> {
    const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
    const now = EPOCH_NS + process.hrtime.bigint();
    const datagram = this.topic.raw
      ? Buffer.concat([rawHeader(this.topic.id), bytes])
      : encodeEvent(this.topic.id, this.#publisher, this.#sequence, now, bytes);
    this.#sequence = (this.#sequence + 1) >>> 0;
    await this.#socket.send(datagram);
  }

  close(): void {
    this.#socket.close();
  }
}
