// SPDX-License-Identifier: Apache-2.0
export { Gaps } from "./gaps.ts";
export { NoAnswer, Refused, type Broker, type Topic } from "./link.ts";
export { Publisher } from "./publisher.ts";
export { Subscriber, type Event } from "./subscriber.ts";
export { decodeEvent, encodeEvent, joinBatch, WireError, type EventDatagram } from "./wire.ts";
