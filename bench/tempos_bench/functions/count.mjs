// The function of the source's measurements, as a program.
import { readFileSync, writeSync } from "node:fs";

const event = JSON.parse(readFileSync(0, "utf8"));
const occurrences = event.message.split(event.pattern).length - 1;
let sum = 0;
for (let i = 0; i < occurrences; i++) sum += i % 2 ? Math.sqrt(i) : i ** 2;
const result = Buffer.alloc(8);
result.writeDoubleLE(sum);
writeSync(1, result);
