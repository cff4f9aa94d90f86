// Solves a proof-of-work challenge (ALTCHA's protocol) in a worker, so that the page stays responsive.
// SHA-256 is implemented here, because a call of crypto.subtle takes longer than hashing one block.
// Browsers are fastest with typed arrays of signed words.

const K = new Int32Array(64);
const START = new Int32Array(8);
for (let prime = 2, at = 0; at < 64; prime++) {
  let divisor = 2;
  while (divisor * divisor <= prime && prime % divisor) divisor++;
  if (divisor * divisor <= prime) continue;
  if (at < 8) START[at] = Math.floor((Math.sqrt(prime) % 1) * 2 ** 32);
  K[at++] = Math.floor((Math.cbrt(prime) % 1) * 2 ** 32);
}

const W = new Int32Array(64);

/** The compression function: hashes 16 words of `message` from index `from` into `state`. */
function compress(state, message, from) {
  for (let i = 0; i < 16; i++) W[i] = message[from + i];
  for (let i = 16; i < 64; i++) {
    const a = W[i - 15];
    const b = W[i - 2];
    const s0 = ((a >>> 7) | (a << 25)) ^ ((a >>> 18) | (a << 14)) ^ (a >>> 3);
    const s1 = ((b >>> 17) | (b << 15)) ^ ((b >>> 19) | (b << 13)) ^ (b >>> 10);
    W[i] = (W[i - 16] + s0 + W[i - 7] + s1) | 0;
  }
  let a = state[0];
  let b = state[1];
  let c = state[2];
  let d = state[3];
  let e = state[4];
  let f = state[5];
  let g = state[6];
  let h = state[7];
  for (let i = 0; i < 64; i++) {
    const S1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const t1 = (h + S1 + ((e & f) ^ (~e & g)) + K[i] + W[i]) | 0;
    const S0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const t2 = (S0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g;
    g = f;
    f = e;
    e = (d + t1) | 0;
    d = c;
    c = b;
    b = a;
    a = (t1 + t2) | 0;
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
  state[5] += f;
  state[6] += g;
  state[7] += h;
}

/** The number from 0 to `highest` for which SHA-256(salt + number) is `wanted` (hex), or null. */
export function search(salt, wanted, highest) {
  const prefix = new TextEncoder().encode(salt);
  const goal = Int32Array.from({ length: 8 }, (_, i) => parseInt(wanted.slice(8 * i, 8 * i + 8), 16));
  // Whole blocks of the salt are hashed once; the rest precedes each number.
  const whole = prefix.length - (prefix.length % 64);
  const base = START.slice();
  const head = words(prefix.subarray(0, whole));
  for (let from = 0; from < head.length; from += 16) compress(base, head, from);
  const rest = prefix.subarray(whole);
  const state = new Int32Array(8);
  // Messages of numbers with as many digits differ in those digits only.
  for (let digits = 1, first = 0; first <= highest; digits++, first = 10 ** (digits - 1)) {
    const message = padded(rest, digits, whole);
    const last = Math.min(highest, 10 ** digits - 1);
    for (let number = first; number <= last; number++) {
      write(message, rest.length + digits - 1, number, digits);
      state.set(base);
      for (let from = 0; from < message.length; from += 16) compress(state, message, from);
      if (state[0] === goal[0] && state.every((word, i) => word === goal[i])) return number;
    }
  }
  return null;
}

/** The last blocks: `rest`, room for `digits` digits, and the padding of SHA-256. */
function padded(rest, digits, before) {
  const length = rest.length + digits;
  const bytes = new Uint8Array(length + 9 <= 64 ? 64 : 128);
  bytes.set(rest);
  bytes[length] = 0x80;
  const message = words(bytes);
  message[message.length - 1] = (before + length) * 8;
  return message;
}

/** Writes the digits of `number` into the bytes of `message` that end at `end`. */
function write(message, end, number, digits) {
  for (let at = end, left = number; at > end - digits; at--) {
    const rest = (left / 10) | 0;
    const shift = 24 - 8 * (at & 3);
    message[at >> 2] = (message[at >> 2] & ~(0xff << shift)) | ((48 + left - 10 * rest) << shift);
    left = rest;
  }
}

function words(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Int32Array.from({ length: bytes.byteLength / 4 }, (_, i) => view.getInt32(4 * i));
}

if (typeof WorkerGlobalScope !== 'undefined') {
  onmessage = ({ data }) => postMessage(search(data.salt, data.challenge, data.maxnumber));
}
