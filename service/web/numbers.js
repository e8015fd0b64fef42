/** Numbers as people read them. */

const MINUS = "−";
const withMinus = (text) => text.replace(/-/g, MINUS);

/** Three or so significant figures: 0.123, −4.56, 1.2e−7. */
export function short(number) {
  if (number === 0 || !Number.isFinite(number)) return withMinus(String(number === 0 ? 0 : number));
  const size = Math.abs(number);
  if (size < 1e-3 || size >= 1e5) return withMinus(number.toExponential(1));
  return withMinus(number.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0));
}

/** How all numbers of a picture are written, the furthest from 0 among them given: with equally many decimals. */
export function likewise(furthest) {
  if (furthest < 1e-2 || furthest >= 1e5) return (number) => (number === 0 ? "0" : withMinus(number.toExponential(1)));
  const decimals = furthest < 10 ? 2 : furthest < 100 ? 1 : 0;
  return (number) => withMinus((number === 0 ? 0 : number).toFixed(decimals)).replace(/^−(0\.?0*)$/, "$1");
}

/** A measured number: whole ones in full, others with four significant figures. */
export function measured(number) {
  if (Number.isInteger(number)) return number.toLocaleString("en").replace(/,/g, " ");
  const size = Math.abs(number);
  return withMinus(size < 1e-3 || size >= 1e6 ? number.toExponential(2) : String(Number(number.toPrecision(4))));
}

/** 0.0123 -> "1.2 %". */
export const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** A time in ms, or µs where it is short. */
export function duration(seconds) {
  if (seconds === 0) return "0 ms";
  return seconds < 1e-3 ? `${(seconds * 1e6).toFixed(0)} µs` : `${Number((seconds * 1e3).toPrecision(3))} ms`;
}

/** Probabilities from logits. */
export function softmax(logits) {
  const highest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - highest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}
