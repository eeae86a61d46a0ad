// SPDX-License-Identifier: Apache-2.0
// Requests to a broker, and its answers (section 4 of WIRE.md).

import { randomBytes } from "node:crypto";
import { createSocket, type Socket } from "node:dgram";

import * as abi from "./abi.ts";
import { pack, PackError, unpack, type Table, type Value } from "./pack.ts";

/** The longest control datagram, and the least bytes of a request whose answer is long, or short. */
const MOST = 1200;
const PADDED_LONG = 512;
const PADDED = 256;
/** Bytes of padding that a request has at least whose answer repeats what it names. */
const PAD = 128;
const RETRY_AFTER_MS = [200, 400, 800, 1600, 3200];
const LONG = new Set(["hello", "resolve", "subscribe"]);

/** The broker has answered, and refused; `code` is its word for why. */
export class Refused extends Error {
  readonly code: string;
  /** What comes with the code `prove`: to be repeated. */
  readonly proof: Uint8Array | undefined;

  constructor(code: string, text: string, hint: string, proof?: Uint8Array) {
    super(hint ? `${text} (${hint})` : text);
    this.name = "Refused";
    this.code = code;
    this.proof = proof;
  }
}

/** Nobody answers. */
export class NoAnswer extends Error {}

/** Where a broker is: an IPv4 address, and its ports where they are not the usual ones. */
export interface Broker {
  readonly address: string;
  readonly controlPort?: number;
  readonly dataPort?: number;
}

export interface Topic {
  readonly id: number;
  readonly name: string;
  readonly raw: boolean;
}

interface Waiting {
  readonly answered: (ok: Table) => void;
  readonly refused: (error: Error) => void;
}

export function isTable(value: Value): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}

/** The whole number under a key; throws NoAnswer's sibling, an Error, where there is none. */
export function numberIn(table: Table, key: string, most: number): number {
  const value = table[key];
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > most)
    throw new Error(`the broker's answer lacks a usable ${key}`);
  return value;
}

export function topicIn(ok: Table): Topic {
  const told = ok["topic"];
  if (!isTable(told) || typeof told["name"] !== "string")
    throw new Error("the broker's answer lacks a usable topic");
  return { id: numberIn(told, "id", abi.TOPIC_MAX), name: told["name"], raw: told["framing"] === "raw" };
}

/** Codes of a datagram that was not sent because there is no way from the address that the socket began with. */
const WAYLESS = new Set([
  ...["EINVAL", "EADDRNOTAVAIL", "ENETUNREACH", "EHOSTUNREACH", "ENETDOWN", "EDESTADDRREQ", "ENOTCONN"],
  // Of a socket whose last attempt to find one has failed.
  "ERR_SOCKET_BAD_PORT",
]);
/** Tries of one datagram: an error may be that of one before, or of a way that is none any more. */
const TRIES = 3;

/** A UDP socket that is connected. It keeps the address that it began with until that is ours no more. */
export class Connected {
  readonly #socket: Socket;
  readonly #address: string;
  readonly #port: number;
  #taking: Promise<void> | undefined;

  private constructor(socket: Socket, address: string, port: number) {
    this.#socket = socket;
    this.#address = address;
    this.#port = port;
  }

  static async open(address: string, port: number): Promise<Connected> {
    return new Connected(await udp(address, port), address, port);
  }

  /** This machine's address towards the broker; where there is no way, nobody's. */
  get ours(): string {
    try {
      return this.#socket.address().address;
    } catch {
      return "0.0.0.0";
    }
  }

  onMessage(heard: (datagram: Uint8Array) => void): void {
    this.#socket.on("message", heard);
  }

  /** Hand a datagram to the kernel, by another way where our address is gone. Throws what the system says. */
  async send(datagram: Uint8Array): Promise<void> {
    for (let left = TRIES - 1; ; left--) {
      try {
        await this.#taking;
        await this.#put(datagram);
        return;
      } catch (error) {
        const code = (error as NodeJS.ErrnoException).code ?? "";
        if (left === 0 || (code !== "ECONNREFUSED" && !WAYLESS.has(code))) throw error;
        if (code !== "ECONNREFUSED") await this.#takeWay();
      }
    }
  }

  close(): void {
    this.#socket.close();
  }

  #put(datagram: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.send(datagram, (error) => (error ? reject(error) : resolve()));
    });
  }

  #takeWay(): Promise<void> {
    this.#taking ??= new Promise<void>((resolve, reject) => {
      try {
        this.#socket.disconnect();
      } catch {
        // The last attempt has failed.
      }
      const done = (error?: Error): void => (error ? reject(error) : resolve());
      this.#socket.connect(this.#port, this.#address, done);
    }).finally(() => (this.#taking = undefined));
    return this.#taking;
  }
}

/** A UDP socket, connected if `port` is given. */
export function udp(address?: string, port?: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createSocket("udp4");
    socket.once("error", reject);
    const made = (): void => {
      socket.off("error", reject);
      // What comes back as an error, such as a port where nobody is, belongs to a datagram of before.
      socket.on("error", () => undefined);
      resolve(socket);
    };
    if (address !== undefined && port !== undefined) socket.connect(port, address, made);
    else socket.bind(0, made);
  });
}

/** One client at one broker. */
export class Link {
  readonly client = randomBytes(8).readBigUInt64BE();
  readonly where: string;
  readonly #socket: Connected;
  readonly #waiting = new Map<number, Waiting>();
  #lastId = randomBytes(4).readUInt32BE();

  /** This machine's address towards the broker. */
  get ours(): string {
    return this.#socket.ours;
  }

  private constructor(socket: Connected, where: string) {
    this.#socket = socket;
    this.where = where;
    socket.onMessage((datagram) => this.#receive(datagram));
  }

  static async open(broker: Broker): Promise<Link> {
    const port = broker.controlPort ?? abi.CONTROL_PORT;
    return new Link(await Connected.open(broker.address, port), `${broker.address}:${port}`);
  }

  /** Send a request until it is answered; throws Refused or NoAnswer. */
  async ask(op: string, fields: Table): Promise<Table> {
    const id = (this.#lastId = (this.#lastId + 1) >>> 0);
    const datagram = this.#encode(op, id, fields);
    try {
      for (const wait of RETRY_AFTER_MS) {
        const answer = this.#answer(id, wait);
        // What cannot be sent now is sent again like what is not answered.
        this.#socket.send(datagram).catch(() => undefined);
        const ok = await answer;
        if (ok !== undefined) return ok;
      }
    } finally {
      this.#waiting.delete(id);
    }
    throw new NoAnswer(`${op}: no answer from the broker at ${this.where}: is it running there?`);
  }

  close(): void {
    this.#socket.close();
  }

  #answer(id: number, wait: number): Promise<Table | undefined> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => resolve(undefined), wait);
      this.#waiting.set(id, {
        answered: (ok) => {
          clearTimeout(timer);
          resolve(ok);
        },
        refused: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      });
    });
  }

  #encode(op: string, id: number, fields: Table): Uint8Array {
    const message = { v: 1, id, op, client: this.client, ...fields };
    const bare = pack(message).length + 7;
    const [least, pad] = LONG.has(op) ? [PADDED_LONG, PAD] : [PADDED, 0];
    const datagram = pack({ ...message, pad: new Uint8Array(Math.max(pad, least - bare, 0)) });
    if (datagram.length > MOST) throw new RangeError(`${op}: a request of ${datagram.length} bytes, ${MOST} are allowed`);
    return datagram;
  }

  #receive(datagram: Uint8Array): void {
    let message: Value;
    try {
      message = datagram.length <= MOST ? unpack(datagram) : undefined;
    } catch (error) {
      if (error instanceof PackError) return;
      throw error;
    }
    if (!isTable(message) || message["v"] !== 1 || typeof message["id"] !== "number") return;
    const waiting = this.#waiting.get(message["id"]);
    const { ok, error } = message;
    if (waiting === undefined) return;
    if (isTable(ok)) waiting.answered(ok);
    else if (isTable(error)) {
      const [code, text, hint] = ["code", "text", "hint"].map((key) => String(error[key] ?? ""));
      // Of a broker that is about to end: the next one answers.
      const proof = error["proof"] instanceof Uint8Array ? error["proof"] : undefined;
      if (code !== "stopping") waiting.refused(new Refused(code ?? "", text ?? "", hint ?? "", proof));
    }
  }
}
