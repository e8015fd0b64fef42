/** Normalise a matrix by any of the operations, and see whom a change of one row moves. */

import { postJson } from "./api.js";
import { operationsServed } from "./catalogue.js";
import { byId, element, showError } from "./element.js";
import { heatmap } from "./heatmap.js";
import { divisors, parseMatrix } from "./matrix.js";
import { measured, short } from "./numbers.js";
import { onceQuiet, oneAtATime } from "./timing.js";

const EXAMPLE = `1 2 3 4 5 6
2 0 -1 3 1 4
-3 1 0 2 -2 5
6 6 5 6 7 6
0 -4 2 -1 3 1`;

/** How a matrix goes to each operation, how its answer is a matrix again, and whose the statistics are. */
const LAYOUTS = {
  layer_norm: { note: "A row's own mean and variance: each row is normalised by itself.", of: "row" },
  rms_norm: { note: "A row's own mean square; the mean is not subtracted.", of: "row" },
  group_norm: {
    note: "Rows are examples, columns are channels: a row's groups have a mean and a variance each.",
    of: "group",
  },
  instance_norm: {
    note: "The matrix is one example: rows are its channels, columns positions.",
    of: "row",
    isImage: true,
  },
  batch_norm: {
    note: "In training mode, by the batch: each column has a mean and a variance over all rows.",
    of: "column",
  },
};

/** Show the panel. */
export async function startNormalise() {
  byId("normalise-form").onsubmit = (event) => event.preventDefault(); // it is answered as it is filled
  const operations = await operationsServed();
  byId("op").replaceChildren(...operations.map(({ name }) => element("option", { value: name }, name)));
  byId("matrix").value = EXAMPLE;
  const say = onceQuiet(700, (text) => (byId("normalise-status").textContent = text));
  const update = oneAtATime(async () => {
    try {
      say(await show(operations));
      showError(byId("normalise-error"), null);
    } catch (error) {
      showError(byId("normalise-error"), error);
    }
  });
  for (const id of ["normalise-form", "changed-row", "change"]) byId(id).addEventListener("input", update);
  byId("normalise-form").addEventListener("reset", () =>
    setTimeout(() => {
      byId("matrix").value = EXAMPLE; // once the browser has put back the rest
      update();
    }),
  );
  await update();
}

async function show(operations) {
  const [scale, mean, eps] = [10 ** slider("scale"), slider("mean"), 10 ** slider("eps")];
  tell("mean", short(mean));
  tell("scale", `× ${short(scale)}`);
  tell("eps", eps.toExponential(1).replace("-", "−"));
  tell("change", short(slider("change")));
  const x = parseMatrix(byId("matrix").value).map((row) => row.map((value) => value * scale + mean));
  offer("groups", divisors(x[0].length));
  offer(
    "changed-row",
    x.map((_, row) => row + 1),
  );
  const operation = operations.find(({ name }) => name === byId("op").value);
  byId("groups-field").hidden = operation.name !== "group_norm";
  byId("formula").textContent = operation.formula;
  byId("op-note").textContent = `${LAYOUTS[operation.name]?.note ?? operation.statistics_of} ${operation.source}.`;
  byId("input-map").replaceChildren(...heatmap(x, { caption: "Input x" }));

  const [answered, changed] = await Promise.allSettled([normalised(operation.name, x, eps), change(x, eps)]);
  if (answered.status === "rejected") throw answered.reason;
  const { y, statistics } = answered.value;
  byId("output-map").replaceChildren(...heatmap(y, { caption: "Output y" }));
  byId("statistics").replaceChildren(table(operation.name, statistics));
  if (changed.status === "rejected") throw changed.reason;
  return changed.value;
}

const slider = (id) => Number(byId(id).value);

function tell(id, text) {
  byId(`${id}-value`).textContent = text;
  byId(id).setAttribute("aria-valuetext", text);
}

/** Numbers to choose from, the one that was chosen kept where it still is among them. */
function offer(id, numbers) {
  const select = byId(id);
  const before = select.value;
  if (select.options.length !== numbers.length || numbers.some((n, at) => select.options[at].text !== String(n))) {
    select.replaceChildren(...numbers.map((n) => element("option", { selected: String(n) === before }, String(n))));
  }
}

/** The operation's answer: y as a matrix, and the statistics, {name, mean, variance}. */
async function normalised(name, x, eps) {
  const layout = LAYOUTS[name] ?? {};
  const body = { x: layout.isImage ? [x] : x, eps, return_stats: true };
  if (name === "group_norm") body.num_groups = slider("groups");
  if (name === "batch_norm") body.training = true;
  const answer = await postJson(`v1/ops/${name}`, body);
  const [means, deviations] = [answer.mean, answer.inv_std].map((stats) => stats.flat(Infinity));
  const perRow = means.length / x.length;
  const statistics = means.map((mean, at) => ({
    name:
      layout.of === "group"
        ? `row ${1 + Math.floor(at / perRow)}, group ${1 + (at % perRow)}`
        : `${layout.of} ${at + 1}`,
    mean,
    variance: varianceOf(deviations[at], eps),
  }));
  return { y: layout.isImage ? answer.y[0] : answer.y, statistics };
}

/** inv_std is 1 / sqrt(Var[x] + eps), rounded: what is left of the variance below its last bits is no figure. */
function varianceOf(invStd, eps) {
  const sum = 1 / invStd ** 2;
  return sum - eps < sum * 1e-6 ? 0 : sum - eps;
}

function table(operation, statistics) {
  const square = operation === "rms_norm" ? "mean square" : "variance";
  const header = (text) => element("th", { scope: "col" }, text);
  return element(
    "table",
    { class: "statistics" },
    element("thead", {}, element("tr", {}, header("of"), header("mean"), header(square))),
    element(
      "tbody",
      {},
      ...statistics.map(({ name, mean, variance }) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, name),
          element("td", {}, measured(mean)),
          element("td", {}, measured(variance)),
        ),
      ),
    ),
  );
}

/** Change one row, and show whose answers have other numbers than before; resolves with what is to be said. */
async function change(x, eps) {
  const row = slider("changed-row") - 1;
  const after = x.map((values, r) => (r === row ? [values[0] + slider("change"), ...values.slice(1)] : values));
  const said = [];
  for (const [prefix, name] of [
    ["ln", "layer_norm"],
    ["bn", "batch_norm"],
  ]) {
    const [before, now] = await Promise.all([normalised(name, x, eps), normalised(name, after, eps)]);
    const moved = now.y.map((values, r) => values.map((value, column) => value !== before.y[r][column]));
    const others = moved.filter((cells, r) => r !== row && cells.some(Boolean)).length;
    const count = `${others} of ${x.length - 1} other rows moved`;
    byId(`${prefix}-moved`).replaceChildren(...heatmap(now.y, { caption: `${name} after the change`, moved }));
    byId(`${prefix}-count`).textContent = count;
    byId(`${prefix}-count`).classList.toggle("fails", others > 0);
    said.push(`${name}: ${count}`);
  }
  return said.join("; ");
}
