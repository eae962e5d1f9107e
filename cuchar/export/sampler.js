"use strict";
// The model: random numbers, weights, one time step, one draw. It knows nothing of the page.
// The same rules are in Python: cuchar/philox.py, cuchar/engines/base.py (the cell), cuchar/sampling.py (the draw).

const COLDEST = 1e200; // the largest 1 / temperature

// The high and the low 32 bits of the product of two 32-bit numbers.
function multiplyWide(a, b) {
  const aHigh = a >>> 16, aLow = a & 0xffff, bHigh = b >>> 16, bLow = b & 0xffff;
  const crossed = aHigh * bLow + ((aLow * bLow) >>> 16), middle = aLow * bHigh + (crossed & 0xffff); // both below 2^32
  return [aHigh * bHigh + (crossed >>> 16) + (middle >>> 16), Math.imul(a, b) >>> 0];
}

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011): four 32-bit words from a counter of four and a key of two.
function philox(counter, key) {
  let [c0, c1, c2, c3] = counter, [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = multiplyWide(0xd2511f53, c0), [high1, low1] = multiplyWide(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

// The two words of a seed, a BigInt from 0 to 2^63 - 1.
function keyOf(seed) {
  return [Number(seed & 0xffffffffn), Number(seed >> 32n)];
}

// The uniform number in (0, 1) for the character at `position` of the first sample, as philox.uniforms has it.
function uniform(key, position) {
  const [high, low] = philox([position >>> 0, (Math.floor(position / 2 ** 32) | 2 ** 31) >>> 0, 0, 0], key);
  return (high * 2 ** 21 + ((low >>> 11) | 1)) / 2 ** 53;
}

function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

// A tensor as float32; rows of 8-bit integers are multiplied by their scales, and the products rounded to float32.
function numbersOf(tensor) {
  if (tensor.float32) return new Float32Array(bytesOf(tensor.float32).buffer);
  const integers = new Int8Array(bytesOf(tensor.int8).buffer), scales = new Float32Array(bytesOf(tensor.scales).buffer);
  const numbers = new Float32Array(integers.length), columns = integers.length / scales.length;
  for (let at = 0; at < numbers.length; at++) numbers[at] = integers[at] * scales[Math.floor(at / columns)];
  return numbers;
}

// sums [M] += matrix [M,N], row by row, times vector [N].
function addProduct(sums, matrix, vector) {
  const columns = vector.length, whole = columns - (columns % 4);
  for (let row = 0, at = 0; row < sums.length; row++) {
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0, column = 0;
    for (; column < whole; column += 4, at += 4) {
      s0 += matrix[at] * vector[column];
      s1 += matrix[at + 1] * vector[column + 1];
      s2 += matrix[at + 2] * vector[column + 2];
      s3 += matrix[at + 3] * vector[column + 3];
    }
    for (; column < columns; column++, at++) s0 += matrix[at] * vector[column];
    sums[row] += s0 + s1 + (s2 + s3);
  }
}

function sigmoid(a) {
  return 1 / (1 + Math.exp(-a));
}

// The model, with the state of one sample. Weights are float32; everything else is computed in double precision.
class Model {
  constructor({ model, tensors }) {
    this.V = model.vocabulary_size;
    this.H = model.hidden;
    this.layers = Array.from({ length: model.layers }, (_, layer) => ({
      inputs: numbersOf(tensors[`lstm.weight_ih_l${layer}`]), // [4H,V], above the first layer [4H,H]
      recurrent: numbersOf(tensors[`lstm.weight_hh_l${layer}`]), // [4H,H]
      bias: numbersOf(tensors[`lstm.bias_l${layer}`]), // [4H]
      h: new Float64Array(this.H),
      c: new Float64Array(this.H),
      a: new Float64Array(4 * this.H),
    }));
    this.headWeight = numbersOf(tensors["head.weight"]); // [V,H]
    this.headBias = numbersOf(tensors["head.bias"]); // [V]
    this.logits = new Float64Array(this.V);
  }

  // Forget everything that was read.
  reset() {
    for (const { h, c } of this.layers) {
      h.fill(0);
      c.fill(0);
    }
  }

  // Read one character. Gates come in the order i, f, g, o.
  read(id) {
    const { V, H } = this;
    let below = null;
    for (const { inputs, recurrent, bias, h, c, a } of this.layers) {
      a.set(bias);
      if (below) addProduct(a, inputs, below);
      else for (let row = 0; row < 4 * H; row++) a[row] += inputs[row * V + id]; // the input is one-hot
      addProduct(a, recurrent, h);
      for (let unit = 0; unit < H; unit++) {
        const i = sigmoid(a[unit]), f = sigmoid(a[H + unit]), g = Math.tanh(a[2 * H + unit]), o = sigmoid(a[3 * H + unit]);
        c[unit] = f * c[unit] + i * g;
        h[unit] = o * Math.tanh(c[unit]);
      }
      below = h;
    }
  }

  // Draw the next character's id: the first at which the sum of the probabilities so far reaches `chance`, a uniform
  // number; with `argmax` the likeliest one. `topK` keeps so many of the likeliest; 0 keeps all.
  draw(chance, { temperature, topK, argmax }) {
    this.logits.set(this.headBias);
    addProduct(this.logits, this.headWeight, this.layers.at(-1).h);
    const ranks = Float32Array.from(this.logits); // likelier is what has the larger float32, and of equal ones the first
    if (argmax) return ranks.indexOf(ranks.reduce((best, rank) => Math.max(best, rank)));
    const coldness = Math.min(1 / temperature, COLDEST), scores = this.logits.map((logit) => logit * coldness);
    const largest = scores.reduce((best, score) => Math.max(best, score));
    const weights = scores.map((score) => Math.exp(score - largest));
    if (topK && topK < this.V) {
      const order = Array.from(ranks.keys()).sort((a, b) => ranks[b] - ranks[a] || a - b);
      for (const id of order.slice(topK)) weights[id] = 0;
    }
    const aim = chance * weights.reduce((sum, weight) => sum + weight);
    let reached = 0, id = 0;
    for (; id < this.V - 1; id++) {
      reached += weights[id];
      if (reached >= aim) break;
    }
    return id;
  }

  // Ids without end that follow `prime`, some ids; without a prime the first one is any of the vocabulary.
  *sample(prime, seed, options) {
    const key = keyOf(seed);
    let last = prime.at(-1), position = 0;
    this.reset();
    for (const id of prime.slice(0, -1)) {
      this.read(id);
      yield null; // this took time, but made no character
    }
    if (last === undefined) {
      last = Math.floor(uniform(key, position++) * this.V);
      yield last;
    }
    for (;;) {
      this.read(last);
      last = this.draw(uniform(key, position++), options);
      yield last;
    }
  }
}
