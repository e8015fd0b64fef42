/** The models: what is served, what is not and why, and what was measured of each. */

import { getJson } from "./api.js";
import { catalogue } from "./catalogue.js";
import { certificateView } from "./certificate.js";
import { byId, element, showError } from "./element.js";
import { measured } from "./numbers.js";

/** Show the panel. Answers {show}, which takes what stands behind the panel's name: a model's. */
export async function startModels() {
  const entries = (await catalogue()).sort((a, b) => a.isOperation - b.isOperation); // else as the server has them
  if (entries.length === 0) throw new Error("The model repository is empty.");
  const links = new Map(entries.map((entry) => [pathOf(entry), link(entry)]));
  byId("model-list").replaceChildren(...[...links.values()].map((each) => element("li", {}, each)));
  let asked = "";
  return {
    async show(path) {
      const entry = entries.find((each) => pathOf(each) === path) ?? entries[0];
      asked = pathOf(entry);
      for (const [each, anchor] of links) {
        if (each === asked) anchor.setAttribute("aria-current", "true");
        else anchor.removeAttribute("aria-current");
      }
      try {
        const view = await modelView(entry);
        if (asked !== pathOf(entry)) return; // another has been asked for meanwhile
        byId("model").replaceChildren(...view);
        if (path && byId("model").getBoundingClientRect().top > innerHeight / 2) byId("model").scrollIntoView();
        byId("models-status").textContent = `${entry.name}: ${view[1].textContent}`;
        showError(byId("models-error"), null);
      } catch (error) {
        showError(byId("models-error"), error);
      }
    },
  };
}

const pathOf = ({ name, version }) => `${name}/${version}`;

function link(entry) {
  const isReady = entry.state === "READY";
  const state = element("span", { class: isReady ? "state" : "state fails" }, isReady ? "ready" : "refused");
  const version = entry.version === "1" ? "" : ` ${entry.version}`;
  return element("a", { href: `#models/${pathOf(entry)}` }, element("span", {}, entry.name, version), state);
}

async function modelView(entry) {
  const title = element("h3", {}, entry.name, element("small", {}, ` version ${entry.version || "none"}`));
  if (entry.config === null) {
    const reason = element("p", { class: "reason" }, entry.reason || "no reason was given");
    return [title, element("p", { class: "fails" }, `${entry.state.toLowerCase()}, not served`), reason];
  }
  const { config } = entry;
  const [metadata, certificate] = await Promise.all([
    getJson(`v2/models/${entry.name}/versions/${entry.version}`),
    getJson(`v1/models/${entry.name}/versions/${entry.version}/certificate`),
  ]);
  const broken = certificate.claims.filter(({ holds }) => !holds).length;
  const kept = `${certificate.claims.length - broken} of ${certificate.claims.length} claims hold`;
  const facts = [
    ["task", entry.isOperation ? config.source : config.task],
    ["formula", entry.isOperation ? element("code", {}, config.task) : null],
    ["metric", metric(config.metric)],
    ["computed by", [config.backend, config.execution_provider, config.precision].filter(Boolean).join(", ")],
    ["batching", `${config.batching.enabled ? "on" : "off"}: ${config.batching.reason}`],
    ["parameters", parameters(config.parameters)],
    ["last load", entry.reason ? element("span", { class: "fails" }, entry.reason) : null],
  ];
  return [
    title,
    element("p", { class: broken ? "verdict fails" : "verdict holds" }, kept),
    element(
      "dl",
      { class: "facts" },
      ...facts.filter(([, fact]) => fact).flatMap(([name, fact]) => [element("dt", {}, name), element("dd", {}, fact)]),
    ),
    element("h4", { class: "label" }, "Inputs and outputs"),
    tensors(metadata, config),
    element("h4", { class: "label" }, "Certificate"),
    certificateView(certificate),
  ];
}

function metric(figures) {
  if (!figures) return null;
  return `${figures.name.replace(/_/g, " ")}: torch ${measured(figures.torch)}, served ${measured(figures.served)}`;
}

/** A model's configuration; an operation's parameters, which are objects. */
function parameters(config) {
  const text = (value) => {
    if (Array.isArray(value)) return value.join(", ");
    return value !== null && typeof value === "object" ? (value.default ?? "") : value;
  };
  return Object.entries(config)
    .map(([name, value]) => `${name} ${text(value)}`)
    .join(" · ");
}

function tensors({ inputs, outputs }, config) {
  const told = Object.fromEntries(config.input.map((input) => [input.name, input]));
  const row = (kind, { name, datatype, shape, optional, on_request: onRequest }) => {
    const notes = [told[name]?.meaning, told[name]?.scale, optional && "optional", onRequest && "on request"];
    const cells = [
      element("code", {}, name),
      datatype,
      `[${shape.join(", ").replace(/-/g, "−")}]`,
      notes.filter(Boolean).join("; "),
    ];
    return element("tr", {}, element("th", { scope: "row" }, kind), ...cells.map((cell) => element("td", {}, cell)));
  };
  const table = element(
    "table",
    { class: "tensors" },
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        ...["", "name", "datatype", "shape", "notes"].map((name) =>
          name ? element("th", { scope: "col" }, name) : element("td"),
        ),
      ),
    ),
    element("tbody", {}, ...inputs.map((each) => row("input", each)), ...outputs.map((each) => row("output", each))),
  );
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Inputs and outputs" }, table);
}
