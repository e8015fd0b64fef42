/** What the server does: /metrics, read again and again while somebody looks. */

import { getText, infer } from "./api.js";
import { catalogue, models } from "./catalogue.js";
import { Chart } from "./chart.js";
import { byId, element, showError } from "./element.js";
import { duration, measured } from "./numbers.js";
import { Interval, Reading } from "./prometheus.js";

const EVERY_MS = 2000;
const REQUESTS = 200;

const CHARTS = [
  { title: "Requests a second", lines: ["all"], format: measured, of: (now) => [now.rate("normserve_requests_total")] },
  { title: "Latency", lines: ["median", "p99"], format: duration, of: (now) => quantiles(now, "request") },
  { title: "Wait for an instance", lines: ["median", "p99"], format: duration, of: (now) => quantiles(now, "queue") },
  { title: "Rows in a batch", lines: ["mean"], format: measured, of: (now) => [now.mean("normserve_batch_rows")] },
];

const quantiles = (now, what) => [0.5, 0.99].map((share) => now.quantile(`normserve_${what}_seconds`, share));

/** Show the panel. Answers {show, hide}: it asks only while it is shown. */
export async function startLive() {
  const charts = CHARTS.map(({ title, lines, format, of }) => ({ chart: new Chart(title, lines, format), of }));
  byId("charts").replaceChildren(...charts.map(({ chart }) => chart.element));
  const names = [...new Set((await catalogue()).map(({ name }) => name))];
  byId("live-model").replaceChildren(
    element("option", { value: "" }, "all"),
    ...names.map((name) => element("option", { value: name }, name)),
  );
  const poll = new Poll(async (before, after) => {
    const now = new Interval(before, after, byId("live-model").value);
    for (const { chart, of } of charts) chart.add(of(now));
  });
  byId("live-model").addEventListener("change", () => charts.forEach(({ chart }) => chart.clear()));
  byId("live-pause").addEventListener("click", () => {
    poll.isPaused = !poll.isPaused;
    byId("live-pause").setAttribute("aria-pressed", String(poll.isPaused));
  });
  byId("live-traffic").addEventListener("click", sendRequests);
  document.addEventListener("visibilitychange", () => poll.go());
  return { show: () => poll.show(true), hide: () => poll.show(false) };
}

/** Reads /metrics while the panel is shown, the tab is in front and nobody has paused it. */
class Poll {
  #before = null;
  #timer = 0;
  #isShown = false;
  #isPaused = false;
  #took;

  constructor(took) {
    this.#took = took;
  }

  get isPaused() {
    return this.#isPaused;
  }

  set isPaused(isPaused) {
    this.#isPaused = isPaused;
    this.go();
  }

  show(isShown) {
    this.#isShown = isShown;
    this.go();
  }

  /** Begin, or end, as it is to be now. */
  go() {
    clearTimeout(this.#timer);
    if (!this.#isShown || this.#isPaused || document.hidden)
      this.#before = null; // a rate over the pause says nothing
    else this.#timer = setTimeout(() => this.#read(), 0);
  }

  async #read() {
    try {
      const reading = new Reading(await getText("metrics"), performance.now() / 1e3);
      if (this.#before !== null) await this.#took(this.#before, reading);
      this.#before = reading;
      showError(byId("live-error"), null);
    } catch (error) {
      this.#before = null;
      showError(byId("live-error"), error);
    }
    clearTimeout(this.#timer);
    if (this.#isShown && !this.#isPaused && !document.hidden) this.#timer = setTimeout(() => this.#read(), EVERY_MS);
  }
}

/** Something to look at, on a server that nobody else asks. */
async function sendRequests() {
  const [model] = await models((config) => config.input[0].data_type === "TYPE_FP32");
  try {
    if (!model) throw new Error("No model is served that takes FP32.");
    const { name, dims } = model.config.input[0];
    const data = new Float32Array(dims.reduce((product, size) => product * size, 1));
    const input = { name, datatype: "FP32", shape: [1, ...dims], data };
    byId("live-status").textContent = `sending ${REQUESTS} requests to ${model.name}`;
    await Promise.all(Array.from({ length: REQUESTS }, () => infer(model.name, input, model.config.output[0].name)));
    byId("live-status").textContent = `${REQUESTS} requests to ${model.name} were answered`;
  } catch (error) {
    showError(byId("live-error"), error);
  }
}
