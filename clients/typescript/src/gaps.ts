// SPDX-License-Identifier: Apache-2.0
// What a member knows of its own losses: holes in the delivery sequence of an epoch (section 3 of WIRE.md).

/** What `see` says of a datagram that was counted as missing, and of one that has come before. */
export const LATE = -1;
export const AGAIN = -2;

/** For so many epochs a datagram may still be on its way; so many are kept that are not acknowledged. */
const LATE_EPOCHS = 16;
const KEPT_EPOCHS = 128;
/** A broker that is so many epochs behind what a datagram made us believe has never been there. */
const NEVER_AHEAD = 64;
const KEPT_HOLES = 1024;

interface Epoch {
  number: number;
  expected: number;
  received: number;
  missing: number;
  /** Of what is received, what another broker counts. */
  elsewhere: number;
  acknowledged: number;
  holes: [start: number, end: number][];
}

function begin(number: number): Epoch {
  return { number, expected: 0, received: 0, missing: 0, elsewhere: 0, acknowledged: -1, holes: [] };
}

/** What the broker in charge is to count. */
function told(epoch: Epoch): number {
  return epoch.received - epoch.elsewhere;
}

/** The epoch that ends with `byte`, if `near` is or was in force. */
function full(byte: number, near: number): number {
  const back = (near - byte) & 0xff;
  return back <= Math.min(LATE_EPOCHS, near) ? near - back : near + 0x100 - back;
}

function fill(epoch: Epoch, back: number): boolean {
  const position = epoch.received + epoch.missing - back;
  const index = epoch.holes.findIndex(([start, end]) => start <= position && position < end);
  const hole = epoch.holes[index];
  if (hole === undefined) return false;
  const rest: [number, number][] = [
    [hole[0], position],
    [position + 1, hole[1]],
  ];
  epoch.holes.splice(index, 1, ...rest.filter(([start, end]) => start < end));
  epoch.missing -= 1;
  epoch.received += 1;
  return true;
}

/** Datagrams received of one epoch, since it began. */
export interface Count {
  readonly epoch: number;
  readonly datagrams: number;
}

/** The delivery account of one member in one group of one topic. */
export class Gaps {
  duplicates = 0;
  late = 0;
  unstamped = 0;
  #epochs = new Map<number, Epoch>();
  #current: Epoch | undefined;
  #doubtful: Epoch | undefined;
  #told: number | undefined;
  #pastReceived = 0;
  #pastMissed = 0;

  get received(): number {
    return [...this.#epochs.values()].reduce((sum, epoch) => sum + epoch.received, this.#pastReceived);
  }

  get missed(): number {
    return [...this.#epochs.values()].reduce((sum, epoch) => sum + epoch.missing, this.#pastMissed);
  }

  /** Account one datagram; how many are missing directly before it, or LATE, or AGAIN. */
  see(byte: number, sequence: number): number {
    if (this.#doubtful !== undefined) this.#settle(this.#doubtful, byte, sequence);
    const current = this.#current;
    const number =
      current !== undefined
        ? full(byte, current.number)
        : this.#told !== undefined
          ? full(byte, this.#told)
          : 0x100 + byte;
    const epoch =
      current === undefined || number > current.number ? this.#begin(number) : this.#epoch(number);
    const ahead = (sequence - epoch.expected) >>> 0;
    if (ahead < 0x80000000) {
      if (ahead > 0) {
        const position = epoch.received + epoch.missing;
        epoch.holes.push([position, position + ahead]);
        if (epoch.holes.length > KEPT_HOLES) epoch.holes.shift();
        epoch.missing += ahead;
      }
      epoch.received += 1;
      epoch.expected = (sequence + 1) >>> 0;
      return ahead;
    }
    if (fill(epoch, 2 ** 32 - ahead)) {
      this.late += 1;
      return LATE;
    }
    if (sequence === 0 && byte === 0 && (this.#told === undefined || epoch.number === 0)) {
      // Straight from a publisher: no broker has stamped it.
      this.unstamped += 1;
      return 0;
    }
    this.duplicates += 1;
    return AGAIN;
  }

  /** The broker says that this member is in the route of this epoch, in full. */
  inForce(number: number): void {
    this.#told = number;
    if (this.#doubtful !== undefined) return;
    if (this.#current !== undefined && this.#current.number - number > NEVER_AHEAD) {
      // What came before anybody told, or later than can be, was taken as of an epoch to come.
      for (const each of [...this.#epochs.values()].filter((epoch) => epoch.number > number)) {
        this.#epochs.delete(each.number);
        if (((each.number ^ number) & 0xff) === 0 && !this.#epochs.has(number)) {
          each.number = number;
          this.#epochs.set(number, each);
        } else this.#retire(each);
      }
      this.#current = this.#epochs.get(number);
    }
    if (this.#current === undefined || this.#current.number < number) this.#begin(number);
  }

  /** The broker is another instance: it may go on with the routes it found, or begin anew. */
  newBroker(): void {
    this.#told = undefined;
    if (this.#current !== undefined) {
      this.#doubtful = this.#current;
      this.#current = undefined;
    }
  }

  /** What a heartbeat tells: epochs whose count is news to the broker. */
  report(): Count[] {
    if (this.#current === undefined) return [];
    return [...this.#epochs.values()]
      .filter((epoch) => told(epoch) !== epoch.acknowledged)
      .map((epoch) => ({ epoch: epoch.number, datagrams: told(epoch) }));
  }

  /** Take nothing as booked. */
  tellAgain(): void {
    for (const epoch of this.#epochs.values()) epoch.acknowledged = -1;
  }

  /** The broker has booked this. */
  acknowledge(count: Count): void {
    const epoch = this.#epochs.get(count.epoch);
    if (epoch !== undefined && count.datagrams <= told(epoch))
      epoch.acknowledged = Math.max(epoch.acknowledged, count.datagrams);
  }

  #epoch(number: number): Epoch {
    let epoch = this.#epochs.get(number);
    if (epoch === undefined) this.#epochs.set(number, (epoch = begin(number)));
    return epoch;
  }

  #begin(number: number): Epoch {
    const epoch = (this.#current = this.#epoch(number));
    for (const old of [...this.#epochs.values()]) {
      const age = number - old.number;
      if (age >= KEPT_EPOCHS || (age > LATE_EPOCHS && told(old) === old.acknowledged)) {
        this.#epochs.delete(old.number);
        this.#retire(old);
      }
    }
    return epoch;
  }

  #settle(doubtful: Epoch, byte: number, sequence: number): void {
    this.#doubtful = undefined;
    this.#current = doubtful;
    const number = full(byte, this.#told ?? doubtful.number);
    const goesOn =
      number === doubtful.number
        ? (sequence - doubtful.expected) >>> 0 < 0x80000000
        : number > doubtful.number;
    if (goesOn) {
      // What has come so far another broker counts, not the one that answers now.
      for (const epoch of this.#epochs.values()) {
        epoch.elsewhere = epoch.received;
        epoch.acknowledged = 0;
      }
      return;
    }
    for (const epoch of this.#epochs.values()) this.#retire(epoch);
    this.#epochs.clear();
    this.#current = undefined;
  }

  #retire(epoch: Epoch): void {
    this.#pastReceived += epoch.received;
    this.#pastMissed += epoch.missing;
  }
}
