/** A certificate, claim by claim: whether it holds, the number that says so, how it was measured. */

import { element } from "./element.js";
import { measured } from "./numbers.js";

const CLAIMS = {
  train_eval_identical: "Training and test compute the same",
  torch_onnx_parity: "The served graph computes what torch does",
  runtime_parity: "The optimised graph computes what the graph as it came does",
  float64_error: "Rounding errors are no larger than torch's",
  batch_invariant: "No other row changes an answer",
  thread_invariant: "No number of threads changes an answer",
  metric_preserved: "The held-out metric is the trained one",
  full_precision: "Weights in fewer bits change nothing that shows",
};
const CHECKED = { start: "Measured on this machine, at start", export: "Measured at export" };

/** The certificate's element. */
export function certificateView({ claims }) {
  return element("div", { class: "claims" }, ...claims.map(claimView));
}

function claimView({ claim, holds, measured: figures, how, checked }) {
  return element(
    "section",
    { class: holds ? "claim" : "claim broken" },
    element("h4", {}, CLAIMS[claim] ?? claim, element("code", {}, claim)),
    element("p", { class: holds ? "holds" : "fails" }, holds ? "holds" : "does not hold"),
    ...headlines(figures).map((line) => element("p", { class: "headline" }, line)),
    element("p", { class: "note" }, `${how}. `, element("em", {}, `${CHECKED[checked] ?? checked}.`)),
    element("details", {}, element("summary", {}, "Every number"), figuresView(figures)),
  );
}

/** The figures that matter most, in words. */
function headlines(figures) {
  const words = [];
  for (const things of ["rows", "batches"]) {
    const [compared, differ] = [figures[`${things}_compared`], figures[`mismatching_${things}`]];
    if (compared !== undefined) words.push(`${measured(differ)} of ${measured(compared)} ${things} differ`);
  }
  if (figures.max_abs) words.push(`largest difference ${measured(figures.max_abs)}`); // none where no row differs
  const lines = words.length > 0 ? [words.join("; ")] : [];
  for (const [name, value] of Object.entries(figures)) {
    if (value === null || typeof value !== "object") continue;
    const [torch, served] =
      ["", "_median", "_max"]
        .map((kind) => [value[`torch${kind}`], value[`served${kind}`]])
        .find((pair) => pair.every((each) => each !== undefined)) ?? [];
    if (torch !== undefined)
      lines.push(`${name.replace(/_/g, " ")}: torch ${measured(torch)}, served ${measured(served)}`);
  }
  return lines;
}

/** All of it, as it was written down. */
function figuresView(figures) {
  const entries = Object.entries(figures).map(([name, value]) => {
    const isNested = value !== null && typeof value === "object" && !Array.isArray(value);
    return [element("dt", {}, name.replace(/_/g, " ")), element("dd", {}, isNested ? figuresView(value) : text(value))];
  });
  return element("dl", {}, ...entries.flat());
}

function text(value) {
  if (Array.isArray(value)) return value.join(", ");
  return typeof value === "number" ? measured(value) : String(value);
}
