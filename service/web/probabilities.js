/** A model's answer as a card: its name, the likeliest, and a bar for each probability. */

import { element } from "./element.js";
import { percent } from "./numbers.js";

export class ProbabilityCard {
  #title;
  #best = element("p", { class: "best" }, "\u00a0");
  #list = element("ol", { class: "bars" });
  #rows;

  /** rows: so many bars. choose: called with the index of a row whose label is pressed; without it labels are text. */
  constructor(name, about, rows, choose = null) {
    this.#title = element("h4", {}, name);
    this.#rows = Array.from({ length: rows }, (_, row) => {
      const label = choose
        ? element("button", { type: "button", class: "label", onclick: () => choose(row) })
        : element("span", { class: "label" });
      const bar = element("span", { class: "bar", "aria-hidden": "true" });
      const share = element("span", { class: "share" });
      this.#list.append(element("li", {}, label, bar, share));
      return { label, bar, share };
    });
    this.element = element("article", { class: "card" }, this.#title, element("p", { class: "about" }, about));
    this.element.append(this.#best, this.#list);
  }

  /** entries: {label, said, share} for each row, where `said` is how the label is read aloud. */
  show(entries) {
    const highest = entries.reduce((best, entry) => (entry.share > best.share ? entry : best));
    this.#best.replaceChildren(element("strong", {}, highest.label), ` ${percent(highest.share)}`);
    this.element.classList.remove("stale");
    entries.forEach((entry, number) => {
      const { label, bar, share } = this.#rows[number];
      label.textContent = entry.label;
      if (entry.said) label.setAttribute("aria-label", entry.said);
      share.textContent = percent(entry.share);
      bar.style.setProperty("--share", entry.share);
      label.parentElement.classList.toggle("likeliest", entry === highest);
    });
  }

  /** What is shown is no answer to what is asked now. */
  fade() {
    this.element.classList.add("stale");
  }
}
