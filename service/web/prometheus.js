/** Prometheus' text format, as /metrics has it, and what two readings of it say of the time between them. */

const LINE = /^(?<name>[a-zA-Z_:][\w:]*)(?:\{(?<labels>.*)\})? (?<value>\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const VALUES = { "+Inf": Infinity, "-Inf": -Infinity };

/** Every sample: {name, labels, value}. */
export function parseMetrics(text) {
  return text
    .split("\n")
    .map((line) => LINE.exec(line)?.groups)
    .filter(Boolean)
    .map(({ name, labels = "", value }) => ({
      name,
      labels: Object.fromEntries([...labels.matchAll(LABEL)].map(([, label, text]) => [label, unescaped(text)])),
      value: VALUES[value] ?? Number(value),
    }));
}

const unescaped = (text) => text.replace(/\\(.)/g, (_, sign) => (sign === "n" ? "\n" : sign));

/** One reading of all metrics, at a time in seconds. */
export class Reading {
  constructor(text, seconds) {
    this.samples = parseMetrics(text);
    this.seconds = seconds;
  }

  /** The sum of a metric's samples; model: of that one alone, where it is one's name. */
  sum(name, model) {
    return this.#of(name, model).reduce((total, { value }) => total + value, 0);
  }

  /** A histogram: Map upper bound -> observations up to it. */
  buckets(name, model) {
    const counts = new Map();
    for (const { labels, value } of this.#of(`${name}_bucket`, model)) {
      const bound = VALUES[labels.le] ?? Number(labels.le);
      counts.set(bound, (counts.get(bound) ?? 0) + value);
    }
    return counts;
  }

  #of(name, model) {
    return this.samples.filter((sample) => sample.name === name && (!model || sample.labels.model === model));
  }
}

/** What happened between two readings. A count that fell began anew: the server had been started again. */
export class Interval {
  constructor(before, after, model = "") {
    Object.assign(this, { before, after, model, seconds: after.seconds - before.seconds });
  }

  increase(name) {
    const [from, to] = [this.before.sum(name, this.model), this.after.sum(name, this.model)];
    return to >= from ? to - from : to;
  }

  /** A second. */
  rate(name) {
    return this.increase(name) / this.seconds;
  }

  /** Of a histogram; null where nothing was observed. */
  mean(name) {
    const count = this.increase(`${name}_count`);
    return count === 0 ? null : this.increase(`${name}_sum`) / count;
  }

  /** Of a histogram, read off its buckets as Prometheus does: evenly between a bucket's bounds; null as above. */
  quantile(name, share) {
    const before = this.before.buckets(name, this.model);
    const counts = [...this.after.buckets(name, this.model)]
      .map(([bound, count]) => [bound, Math.max(0, count - (before.get(bound) ?? 0))])
      .sort(([a], [b]) => a - b);
    const total = counts.at(-1)?.[1] ?? 0;
    if (total === 0) return null;
    const at = counts.findIndex(([, count]) => count >= share * total);
    const [bound, count] = counts[at];
    const [lower, below] = at === 0 ? [0, 0] : counts[at - 1];
    if (bound === Infinity) return lower;
    return lower + ((bound - lower) * (share * total - below)) / (count - below);
  }
}
