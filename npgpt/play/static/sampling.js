// The distribution of the next token, as npgpt/inference/sampling.py computes it: top-k, then
// temperature, then top-p. In float64, from float32 logits, over the whole vocabulary.

const TINY = 2 ** -126; // the smallest temperature above 0

export class Distribution {
  /** `logits`: (V,) float32, of which the largest is finite. */
  constructor(logits) {
    const V = logits.length;
    this.logits = logits;
    this.size = V;
    // The order of the logits is the order of the probabilities at every temperature.
    this.order = Uint32Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
    this.sorted = Float64Array.from(this.order, (id) => logits[id]);
    this.softmax = new Float64Array(V);
    this.kept = new Float64Array(V);
    this.tempered = new Float64Array(V);
    this.final = new Float64Array(V);
    softmax(this.sorted, V, 1, this.softmax);
  }

  /**
   * Return the four stages, each {name, probs, count, entropy}. `probs` is by rank, 0 beyond
   * `count`, and overwritten by the next call. topK null: all; topP null: all. Temperature 0 is
   * greedy: the last stage is the likeliest token alone.
   */
  stages({ temperature, topK, topP }) {
    const V = this.size;
    const k = this.countOfTopK(topK);
    let mass = 0;
    for (let i = 0; i < k; i++) mass += this.softmax[i];
    for (let i = 0; i < V; i++) this.kept[i] = i < k ? this.softmax[i] / mass : 0;
    const { tempered, final } = this;
    let count = k;
    if (temperature === 0) {
      tempered.fill(0);
      tempered[0] = 1;
      count = 1;
      final.set(tempered);
    } else {
      softmax(this.sorted, k, Math.max(temperature, TINY), tempered);
      count = topP === null ? k : nucleus(tempered, k, topP);
      let left = 0;
      for (let i = 0; i < count; i++) left += tempered[i];
      for (let i = 0; i < V; i++) final[i] = i < count ? tempered[i] / left : 0;
    }
    return [
      stage("softmax", this.softmax, V),
      stage("top-k", this.kept, k),
      stage("temperature", tempered, temperature === 0 ? 1 : k),
      stage("top-p", final, count),
    ];
  }

  /** Return how many tokens top-k keeps: ties with the k-th stay. */
  countOfTopK(topK) {
    if (topK === null || topK >= this.size) return this.size;
    let k = topK;
    while (k < this.size && this.sorted[k] === this.sorted[topK - 1]) k++;
    return k;
  }

  /** Return the probabilities of the last stage by token id. */
  byToken(settings) {
    const probs = this.stages(settings)[3].probs;
    const found = new Float64Array(this.size);
    for (let i = 0; i < this.size; i++) found[this.order[i]] = probs[i];
    return found;
  }
}

function softmax(sorted, count, temperature, out) {
  const largest = sorted[0];
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const e = Math.exp((sorted[i] - largest) / temperature);
    out[i] = e;
    sum += e;
  }
  for (let i = 0; i < count; i++) out[i] /= sum;
  out.fill(0, count);
}

/** Return how many of the likeliest tokens reach the mass p; at least one. */
function nucleus(probs, count, p) {
  let before = probs[0];
  let i = 1;
  for (; i < count && before < p; i++) before += probs[i];
  return i;
}

function stage(name, probs, count) {
  let entropy = 0;
  let positive = 0;
  for (let i = 0; i < count; i++) {
    if (probs[i] > 0) {
      entropy -= probs[i] * Math.log2(probs[i]);
      positive++;
    }
  }
  return { name, probs, count: positive, entropy: Math.max(0, entropy) };
}
