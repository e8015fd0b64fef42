/** Type a text: character models say what comes next, side by side. */

import { infer } from "./api.js";
import { models } from "./catalogue.js";
import { byId, element, showError } from "./element.js";
import { percent, short, softmax } from "./numbers.js";
import { ProbabilityCard } from "./probabilities.js";
import { onceQuiet, oneAtATime } from "./timing.js";

const SHOWN_FIRST = ["ln-lstm-charlm", "pre-ln-charlm", "post-ln-charlm", "admin-charlm"];
const ROWS = 8;
const SIGNS = { " ": ["␣", "space"], "\n": ["⏎", "new line"] };

/** Show the panel. */
export async function startText() {
  const found = await models((config) => config.alphabet);
  if (found.length === 0) throw new Error("No character model is served.");
  found.sort((a, b) => rank(a) - rank(b));
  const answering = found.map((model) => new Answering(model, goOnWith));
  const say = onceQuiet(900, (text) => (byId("text-status").textContent = text));

  const update = oneAtATime(async () => {
    const shown = answering.filter((each) => each.isChosen);
    try {
      const said = await Promise.all(shown.map((each) => each.answer(byId("text").value)));
      showError(byId("text-error"), null);
      say(said.join("; "));
    } catch (error) {
      showError(byId("text-error"), error);
      shown.forEach((each) => each.card.fade());
    }
  });

  function goOnWith(character) {
    byId("text").value += character;
    update();
  }

  function choose() {
    byId("text-answers").replaceChildren(...answering.filter((each) => each.isChosen).map(({ card }) => card.element));
    update();
  }

  byId("text-models").replaceChildren(
    ...answering.map((each) => element("label", { class: "check" }, each.checkbox, ` ${each.model.name}`)),
  );
  byId("text-models").addEventListener("change", choose);
  byId("text").addEventListener("input", update);
  choose();
}

const rank = ({ name }) => (SHOWN_FIRST.indexOf(name) + 99) % 99; // others behind

/** One model: its choice, its card. */
class Answering {
  #characters = []; // of the rows

  constructor(model, goOnWith) {
    this.model = model;
    this.checkbox = element("input", { type: "checkbox", checked: SHOWN_FIRST.includes(model.name) });
    const { metric } = model.config;
    const about = metric?.name === "bits_per_character" ? `${short(metric.served)} bits per held-out character` : "";
    this.card = new ProbabilityCard(model.name, about, ROWS, (row) => goOnWith(this.#characters[row]));
  }

  get isChosen() {
    return this.checkbox.checked;
  }

  /** Ask, and show; resolves with what is to be said. Throws when the text cannot be asked about. */
  async answer(text) {
    const { name, config } = this.model;
    const ids = idsOf(text, config);
    const input = { name: config.input[0].name, datatype: "INT64", shape: [1, ids.length], data: ids };
    const { data } = await infer(name, input, config.output[0].name);
    const shares = softmax(data.subarray(-config.alphabet.length)); // behind the last character
    const likeliest = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, ROWS);
    this.#characters = likeliest.map((id) => config.alphabet[id]);
    this.card.show(likeliest.map((id) => entry(config.alphabet[id], shares[id])));
    return `${name}: ${said(this.#characters[0])}, ${percent(shares[likeliest[0]])}`;
  }
}

const said = (character) => SIGNS[character]?.[1] ?? character;

const entry = (character, share) => ({
  label: SIGNS[character]?.[0] ?? character,
  said: `go on with ${said(character)}`,
  share,
});

/** The text's end, as positions in the alphabet. Throws where a character has none, or there is no text. */
function idsOf(text, { alphabet, input }) {
  const longest = input[0].max_shape?.[1] ?? Infinity;
  const characters = Array.from(text).slice(-longest);
  if (characters.length === 0) throw new Error("Type at least one character.");
  const unknown = characters.find((character) => !alphabet.includes(character));
  if (unknown !== undefined) throw new Error(`“${unknown}” is none of the characters these models were trained with.`);
  return BigInt64Array.from(characters, (character) => BigInt(alphabet.indexOf(character)));
}
