/** The promise, put to the test: many requests at once, their answers compared with the lone one's, byte by byte. */

import { getJson, infer } from "./api.js";
import { models } from "./catalogue.js";
import { byId, element, showError } from "./element.js";

const MOST_NEIGHBOURS = 7; // rows beside ours in a request; the server puts requests together as well
const LENGTH = 16; // of axes that vary
const OP_ROW = 32; // numbers in a row of the operations
const BYTES_SHOWN = 12;

/** Show the panel. */
export async function startInvariance() {
  const finding = models();
  byId("invariance-form").onsubmit = async (event) => {
    event.preventDefault(); // before anything is waited for: the browser would send the form itself
    const button = byId("invariance-run");
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true"); // and not `disabled`, which would take the focus away
    try {
      const found = await finding;
      await run(found.find(({ name }) => name === byId("invariance-model").value));
      showError(byId("invariance-error"), null);
    } catch (error) {
      showError(byId("invariance-error"), error);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  };
  for (const place of ["model-trial", "ln-trial", "bn-trial"]) new TrialView(byId(place)).wait();
  const found = await finding;
  const first = found.find(({ name, config }) => name.startsWith("ln-") && config.input[0].data_type === "TYPE_FP32");
  byId("invariance-model").replaceChildren(
    ...found.map((model) => element("option", { selected: model === first }, model.name)),
  );
}

async function run(model) {
  if (!model) throw new Error("No model is served.");
  const count = byId("invariance-count").valueAsNumber;
  const served = new Trial(model.name, model.config.input[0], model.config.output[0].name);
  const before = await batchesOf(model);
  const result = await served.run(count, new TrialView(byId("model-trial")));
  const batches = difference(before, await batchesOf(model));
  new TrialView(byId("model-trial")).note(`${result.bytes} The server ran them in ${batches}.`);
  const row = { name: "x", data_type: "TYPE_FP32", dims: [OP_ROW] };
  const layer = new Trial("layer_norm", row, "y");
  const batch = new Trial("batch_norm", row, "y", { training: true });
  const layerResult = await layer.run(count, new TrialView(byId("ln-trial")));
  const batchResult = await batch.run(count, new TrialView(byId("bn-trial")), 1);
  new TrialView(byId("ln-trial")).note(layerResult.bytes);
  new TrialView(byId("bn-trial")).note(
    `${batchResult.bytes} A batch of one has no variance: compared with the answer beside one other row.`,
  );
  byId("invariance-status").textContent =
    `${model.name}: ${result.said}. layer_norm: ${layerResult.said}. batch_norm in training: ${batchResult.said}.`;
}

/** One row of a model, sent alone and among others. */
class Trial {
  constructor(name, input, output, parameters = {}) {
    Object.assign(this, { name, output, parameters });
    this.input = { name: input.name, datatype: input.data_type.replace("TYPE_", "") };
    this.dims = input.dims.map((size, axis) => (size === -1 ? lengthOf(input, axis + 1) : size));
    this.numbers = this.dims.reduce((product, size) => product * size, 1);
    this.random = filler(input);
    this.row = this.rows(1);
  }

  rows(count) {
    return this.random(count * this.numbers);
  }

  /** Ask, first alone, then so often at once. fewest: other rows without which there is no answer. */
  async run(count, view, fewest = 0) {
    view.begin(count);
    const reference = await this.ask(fewest, 0);
    let equal = 0;
    await Promise.all(
      Array.from({ length: count }, async (_, number) => {
        const others = fewest + (number % (MOST_NEIGHBOURS + 1 - fewest));
        const answer = await this.ask(others, Math.floor(Math.random() * (others + 1)));
        const isEqual = answer.length === reference.length && answer.every((byte, at) => byte === reference[at]);
        equal += isEqual ? 1 : 0;
        view.answered(number, isEqual);
      }),
    );
    view.end(equal, count);
    const shown = Array.from(reference.subarray(0, BYTES_SHOWN), (byte) => byte.toString(16).padStart(2, "0")).join(
      " ",
    );
    return { said: `${equal} of ${count} equal`, bytes: `${reference.length} bytes: ${shown} …` };
  }

  /** The bytes that answer our row, at this position among so many other rows. */
  async ask(others, position) {
    const data = this.rows(others + 1);
    data.set(this.row, position * this.numbers);
    const input = { ...this.input, shape: [others + 1, ...this.dims], data };
    const { bytes } = await infer(this.name, input, this.output, this.parameters);
    const size = bytes.length / (others + 1);
    return bytes.subarray(position * size, (position + 1) * size);
  }
}

/** A length of an axis that varies, the axis of rows counted: ours, or the nearest to it that the model takes. */
function lengthOf({ min_shape: least, max_shape: most }, axis) {
  return Math.max(Math.min(LENGTH, most?.[axis] ?? LENGTH), least?.[axis] ?? 1);
}

/** Random values that an input takes. */
function filler({ data_type: type, minimum = 0, maximum = 1 }) {
  const between = () => minimum + Math.random() * (maximum - minimum);
  if (type === "TYPE_INT64") return (length) => BigInt64Array.from({ length }, () => BigInt(Math.round(between())));
  return (length) => Float32Array.from({ length }, between);
}

/** How often the model ran so many rows at once: Map rows -> times. */
async function batchesOf({ name, version }) {
  const [stats] = (await getJson(`v2/models/${name}/versions/${version}/stats`)).model_stats;
  return new Map(stats.batch_stats.map((batch) => [batch.batch_size, batch.compute_infer.count]));
}

function difference(before, after) {
  const ran = [...after].filter(([rows, times]) => times > (before.get(rows) ?? 0));
  const times = ran.reduce((sum, [rows, count]) => sum + count - (before.get(rows) ?? 0), 0);
  const sizes = ran.map(([rows]) => rows);
  return `${times} batches of ${Math.min(...sizes)} to ${Math.max(...sizes)} rows`;
}

/** A square for each answer, and how many are equal. */
class TrialView {
  constructor(place) {
    this.place = place;
  }

  wait() {
    this.place.replaceChildren(
      element("p", { class: "count" }, "not sent yet"),
      element("div", { class: "squares" }),
      note("\u00a0"),
    );
  }

  begin(count) {
    this.wait();
    this.#count.className = "count";
    this.#count.textContent = `0 of ${count} answered`;
    this.#squares.replaceChildren(...Array.from({ length: count }, () => element("i")));
  }

  answered(number, isEqual) {
    this.#squares.children[number].className = isEqual ? "equal" : "other";
    const done = this.#squares.querySelectorAll(".equal, .other").length;
    this.#count.textContent = `${done} of ${this.#squares.children.length} answered`;
  }

  end(equal, count) {
    this.#count.className = equal === count ? "count holds" : "count fails";
    this.#count.textContent = `${equal} of ${count} equal, byte for byte`;
  }

  note(text) {
    this.place.lastElementChild.textContent = text;
  }

  get #count() {
    return this.place.children[0];
  }

  get #squares() {
    return this.place.children[1];
  }
}

const note = (text) => element("p", { class: "note" }, text);
