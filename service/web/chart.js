/** Lines over the last minutes, in SVG. */

import { element } from "./element.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, TOP] = [300, 90, 6]; // of the picture's own units; the last: what is above the highest point
const KEPT = 60; // points

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  return made;
}

/** One figure: a title, what it is now, and its lines. */
export class Chart {
  #points = [];
  #now = element("p", { class: "now" }, "–");
  #top = element("span", { class: "scale" });
  #lines;
  #picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  #title;
  #format;

  /** lines: their names, the first the main one. format: a number as people read it. */
  constructor(title, lines, format) {
    this.#title = title;
    this.#format = format;
    for (const height of [TOP, (TOP + HEIGHT) / 2, HEIGHT - 1]) {
      this.#picture.append(drawn("line", { class: "rule", x1: 0, x2: WIDTH, y1: height, y2: height }));
    }
    this.#lines = lines.map((name, number) => {
      const line = drawn("path", { class: number === 0 ? "line" : "line second" });
      const points = drawn("path", { class: number === 0 ? "points" : "points second" });
      this.#picture.append(line, points);
      return { name, line, points };
    });
    const names =
      lines.length < 2
        ? []
        : lines.map((name, number) =>
            element("span", { class: number === 0 ? "line-name" : "line-name second" }, name),
          );
    this.element = element(
      "figure",
      { class: "chart" },
      element("figcaption", {}, title, ...names),
      this.#now,
      element("div", { class: "plot" }, this.#top, this.#picture),
    );
    this.clear();
  }

  clear() {
    this.#points = [];
    this.#draw();
  }

  /** The next point of each line; null where there is none. */
  add(values) {
    this.#points = [...this.#points, values].slice(-KEPT);
    this.#draw();
  }

  #draw() {
    const highest = ceiling(Math.max(0, ...this.#points.flat().map((value) => value ?? 0)));
    this.#top.textContent = highest === 0 ? "" : this.#format(highest);
    this.#lines.forEach(({ line, points }, number) => {
      const places = placed(
        this.#points.map((values) => values[number]),
        highest || 1,
      );
      line.setAttribute("d", places.map((place, at) => place && `${places[at - 1] ? "L" : "M"}${place}`).join(""));
      points.setAttribute("d", places.map((place) => place && `M${place}h.01`).join(""));
    });
    const last = this.#points.at(-1) ?? [];
    const said = this.#lines.map(({ name }, number) => {
      const value = last[number] == null ? "–" : this.#format(last[number]);
      return this.#lines.length < 2 ? value : `${name} ${value}`;
    });
    this.#now.textContent = said.join("  ");
    this.#picture.setAttribute("aria-label", `${this.#title}: now ${said.join(", ")}`);
  }
}

/** Where each value is, as "x y"; "" where there is none. */
function placed(values, highest) {
  return values.map((value, at) => {
    if (value === null) return "";
    const x = ((KEPT - values.length + at) / (KEPT - 1)) * WIDTH;
    return `${x.toFixed(1)} ${(HEIGHT - 1 - (value / highest) * (HEIGHT - 1 - TOP)).toFixed(1)}`;
  });
}

/** 1, 2 or 5 times a power of ten, at least so much. */
function ceiling(value) {
  if (value === 0) return 0;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}
