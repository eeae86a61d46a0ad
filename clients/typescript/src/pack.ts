// SPDX-License-Identifier: Apache-2.0
// msgpack, as far as control datagrams need it (section 4 of WIRE.md): no extension types. A number that does not
// fit 53 bits is read as a bigint; text and bytes are told apart.

export type Value = undefined | null | boolean | number | bigint | string | Uint8Array | Value[] | Table;
export interface Table {
  [key: string]: Value;
}

/** Lists and maps in each other: more than any control datagram has. */
const DEPTH = 8;

export class PackError extends Error {}

function head(code: number, value: number | bigint, bytes: 0 | 1 | 2 | 4 | 8): Uint8Array {
  const out = new Uint8Array(1 + bytes);
  const at = new DataView(out.buffer);
  out[0] = code;
  if (bytes === 1) at.setUint8(1, Number(value));
  else if (bytes === 2) at.setUint16(1, Number(value));
  else if (bytes === 4) at.setUint32(1, Number(value));
  else if (bytes === 8) at.setBigUint64(1, BigInt(value));
  return out;
}

function number(value: number | bigint): Uint8Array {
  if (value < 0 || (typeof value === "number" && !Number.isSafeInteger(value)))
    throw new PackError(`${value} is no whole number from 0 on`);
  if (value < 0x80) return head(Number(value), 0, 0);
  if (value <= 0xff) return head(0xcc, value, 1);
  if (value <= 0xffff) return head(0xcd, value, 2);
  if (value <= 0xffffffff) return head(0xce, value, 4);
  return head(0xcf, value, 8);
}

function pieces(value: Value, out: Uint8Array[]): void {
  if (value === null || value === undefined) out.push(head(0xc0, 0, 0));
  else if (typeof value === "boolean") out.push(head(value ? 0xc3 : 0xc2, 0, 0));
  else if (typeof value === "number" || typeof value === "bigint") out.push(number(value));
  else if (typeof value === "string") {
    const bytes = new TextEncoder().encode(value);
    out.push(bytes.length < 32 ? head(0xa0 | bytes.length, 0, 0) : head(0xda, bytes.length, 2), bytes);
  } else if (value instanceof Uint8Array) out.push(head(0xc5, value.length, 2), value);
  else if (Array.isArray(value)) {
    out.push(value.length < 16 ? head(0x90 | value.length, 0, 0) : head(0xdc, value.length, 2));
    for (const each of value) pieces(each, out);
  } else {
    const entries = Object.entries(value).filter(([, each]) => each !== undefined);
    out.push(head(0xde, entries.length, 2));
    for (const [key, each] of entries) {
      pieces(key, out);
      pieces(each, out);
    }
  }
}

export function pack(value: Value): Uint8Array {
  const out: Uint8Array[] = [];
  pieces(value, out);
  return Buffer.concat(out);
}

class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get done(): boolean {
    return this.#at === this.#bytes.length;
  }

  take(length: number): Uint8Array {
    if (length > this.#bytes.length - this.#at) throw new PackError("it ends too early");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  unsigned(bytes: number): number | bigint {
    const at = this.#at;
    this.take(bytes);
    if (bytes === 1) return this.#view.getUint8(at);
    if (bytes === 2) return this.#view.getUint16(at);
    if (bytes === 4) return this.#view.getUint32(at);
    return narrowed(this.#view.getBigUint64(at));
  }

  signed(bytes: number): number | bigint {
    const at = this.#at;
    this.take(bytes);
    if (bytes === 1) return this.#view.getInt8(at);
    if (bytes === 2) return this.#view.getInt16(at);
    if (bytes === 4) return this.#view.getInt32(at);
    return narrowed(this.#view.getBigInt64(at));
  }

  float(bytes: number): number {
    const at = this.#at;
    this.take(bytes);
    return bytes === 4 ? this.#view.getFloat32(at) : this.#view.getFloat64(at);
  }

  value(depth: number): Value {
    if (depth > DEPTH) throw new PackError("it is nested too deep");
    const code = Number(this.unsigned(1));
    if (code < 0x80) return code;
    if (code >= 0xe0) return code - 0x100;
    if (code < 0x90) return this.#map(code & 15, depth);
    if (code < 0xa0) return this.#list(code & 15, depth);
    if (code < 0xc0) return this.#text(code & 31);
    switch (code) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.take(Number(this.unsigned(1 << (code - 0xc4))));
      case 0xca:
      case 0xcb:
        return this.float(4 << (code - 0xca));
      case 0xcc:
      case 0xcd:
      case 0xce:
      case 0xcf:
        return this.unsigned(1 << (code - 0xcc));
      case 0xd0:
      case 0xd1:
      case 0xd2:
      case 0xd3:
        return this.signed(1 << (code - 0xd0));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#text(Number(this.unsigned(1 << (code - 0xd9))));
      case 0xdc:
      case 0xdd:
        return this.#list(Number(this.unsigned(2 << (code - 0xdc))), depth);
      case 0xde:
      case 0xdf:
        return this.#map(Number(this.unsigned(2 << (code - 0xde))), depth);
    }
    throw new PackError(`type ${code} is not in use`);
  }

  #text(length: number): string {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.take(length));
    } catch {
      throw new PackError("text that is no UTF-8");
    }
  }

  #list(length: number, depth: number): Value[] {
    const out: Value[] = [];
    for (let left = length; left > 0; left--) out.push(this.value(depth + 1));
    return out;
  }

  #map(length: number, depth: number): Table {
    // No prototype: a key may be called as anything.
    const out = Object.create(null) as Table;
    for (let left = length; left > 0; left--) {
      const key = this.value(depth + 1);
      if (typeof key !== "string") throw new PackError("a key that is no text");
      out[key] = this.value(depth + 1);
    }
    return out;
  }
}

function narrowed(value: bigint): number | bigint {
  const narrow = Number(value);
  return Number.isSafeInteger(narrow) ? narrow : value;
}

/** One value, which takes all of the bytes; throws PackError and nothing else. */
export function unpack(bytes: Uint8Array): Value {
  const reader = new Reader(bytes);
  const value = reader.value(0);
  if (!reader.done) throw new PackError("something stands behind it");
  return value;
}
