/** The page: which panel is shown, by the address behind its `#`, and what each is started with when it first is. */

import { getJson } from "./api.js";
import { useKeyForm } from "./api_key.js";
import { startDigits } from "./digits.js";
import { byId, showError } from "./element.js";
import { startInvariance } from "./invariance.js";
import { startLive } from "./live.js";
import { startModels } from "./models.js";
import { startNormalise } from "./normalise.js";
import { startText } from "./text.js";

/** By name: what starts each part of it, and where it says what went wrong. The first is shown at first. */
const PANELS = {
  try: [
    [startDigits, "digits-error"],
    [startText, "text-error"],
  ],
  normalise: [[startNormalise, "normalise-error"]],
  invariance: [[startInvariance, "invariance-error"]],
  models: [[startModels, "models-error"]],
  live: [[startLive, "live-error"]],
};
const started = new Map(); // name -> what its parts answered, once they did
let shown = null;

function named() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  return Object.hasOwn(PANELS, name) ? [name, decodeURIComponent(rest.join("/"))] : [shown ?? "try", ""];
}

async function start(name) {
  const parts = PANELS[name].map(async ([startPart, place]) => {
    try {
      return await startPart();
    } catch (error) {
      started.delete(name); // it is tried again when it is next shown
      showError(byId(place), error);
      return undefined;
    }
  });
  return (await Promise.all(parts)).filter(Boolean);
}

async function hide(name) {
  const parts = (await started.get(name)) ?? [];
  if (shown !== name) for (const part of parts) part.hide?.();
}

async function show() {
  const [name, rest] = named();
  const before = shown;
  shown = name;
  for (const each of Object.keys(PANELS)) byId(`panel-${each}`).hidden = each !== name;
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (before !== null && before !== name) {
    byId(`${name}-title`).focus({ preventScroll: true });
    scrollTo(0, 0);
    hide(before); // not awaited: it may still be loading
  }
  if (!started.has(name)) started.set(name, start(name));
  const parts = await started.get(name);
  if (shown === name) for (const part of parts) part.show?.(rest);
}

useKeyForm(() => getJson("v2/models"));
addEventListener("hashchange", show);
show();
getJson("v2").then(
  ({ name, version }) => (byId("server").textContent = `· ${name} ${version}`),
  () => undefined, // the panel that is shown says what is wrong
);
