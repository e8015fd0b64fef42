/** What is served: asked once, and again while models are being loaded. */

import { getJson, postJson } from "./api.js";
import { pause } from "./timing.js";

let asked = null;

/** Every model that was found: {name, version, state, reason, isOperation, config}; config of those that serve. */
export function catalogue() {
  asked ??= load().catch((error) => {
    asked = null; // the next who needs it asks again
    throw error;
  });
  return asked;
}

async function load() {
  let index = await postJson("v2/repository/index", {});
  while (index.some((entry) => entry.state === "LOADING")) {
    await pause(500);
    index = await postJson("v2/repository/index", {});
  }
  const operations = new Set((await operationsServed()).map((operation) => operation.name));
  return Promise.all(
    index.map(async (entry) => ({
      ...entry,
      isOperation: operations.has(entry.name),
      config: entry.state === "READY" ? await getJson(configPath(entry)) : null,
    })),
  );
}

const configPath = ({ name, version }) => `v2/models/${name}/versions/${version}/config`;

let described = null;

/** GET v1/ops. */
export function operationsServed() {
  described ??= getJson("v1/ops").catch((error) => {
    described = null;
    throw error;
  });
  return described;
}

/** The models (no operations) that serve, the highest version of each, for which `suits` is true of their config. */
export async function models(suits = () => true) {
  const highest = new Map();
  for (const entry of await catalogue()) {
    if (!entry.isOperation) highest.set(entry.name, entry); // the index has the lowest version first
  }
  return [...highest.values()].filter((entry) => entry.config !== null && suits(entry.config));
}
