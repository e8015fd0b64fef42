/** Draw a digit: every model of digits answers, side by side. */

import { infer } from "./api.js";
import { models } from "./catalogue.js";
import { DigitPad } from "./digit_pad.js";
import { SAMPLES } from "./digit_samples.js";
import { byId, element, showError } from "./element.js";
import { percent, softmax } from "./numbers.js";
import { ProbabilityCard } from "./probabilities.js";
import { onceQuiet, oneAtATime } from "./timing.js";

const SCALE = /^pixel \/ (\d+)$/; // as the manifests of models of digits say it
const NORMS = { layer: "LayerNorm", batch: "BatchNorm" };
const SHOWN_FIRST = 3;

/** Show the panel. */
export async function startDigits() {
  const found = await models((config) => SCALE.test(config.input[0].scale ?? ""));
  const answering = pairs(found).map((model) => ({ model, card: new ProbabilityCard(model.name, about(model), 10) }));
  byId("digit-answers").replaceChildren(...answering.map(({ card }) => card.element));
  if (answering.length === 0) throw new Error("No model of digits is served.");

  const pad = new DigitPad(() => update());
  const say = onceQuiet(700, (text) => (byId("digits-status").textContent = text));
  const update = oneAtATime(async () => {
    try {
      const said = await Promise.all(answering.map(({ model, card }) => answer(model, card, pad.cells)));
      showError(byId("digits-error"), null);
      say(said.join("; "));
    } catch (error) {
      showError(byId("digits-error"), error);
      answering.forEach(({ card }) => card.fade());
    }
  });

  byId("samples").replaceChildren(
    ...SAMPLES.map(({ name, pixels }) =>
      element("button", { type: "button", onclick: () => (pad.cells = pixels), "aria-label": sampleName(name) }, name),
    ),
  );
  byId("pad-clear").addEventListener("click", () => pad.clear());
  byId("pad-fit").addEventListener("click", () => pad.fit());
  pad.cells = SAMPLES[SHOWN_FIRST].pixels;
}

const sampleName = (name) => (name.endsWith("?") ? "a nine that is hard to tell" : `a ${name}`);

/** Each LayerNorm model before its BatchNorm twin. */
function pairs(found) {
  const kind = ({ name }) => name.replace(/^(ln|bn)-/, "");
  const order = (model) => (model.config.parameters.norm === "layer" ? 0 : 1);
  return found.sort((a, b) => kind(b).localeCompare(kind(a)) || order(a) - order(b));
}

function about({ config }) {
  const norm = NORMS[config.parameters.norm] ?? "";
  const accuracy = config.metric?.name === "accuracy" ? `held-out accuracy ${percent(config.metric.served)}` : "";
  return [norm, accuracy].filter(Boolean).join(", ");
}

async function answer({ name, config }, card, cells) {
  const input = config.input[0];
  const scale = Number(SCALE.exec(input.scale)[1]);
  const data = Float32Array.from(cells, (cell) => cell / scale);
  const tensor = { name: input.name, datatype: "FP32", shape: [1, ...input.dims], data };
  const shares = softmax((await infer(name, tensor, config.output[0].name)).data);
  card.show(shares.map((share, digit) => ({ label: String(digit), share })));
  const best = shares.indexOf(Math.max(...shares));
  return `${name}: ${best}, ${percent(shares[best])}`;
}
