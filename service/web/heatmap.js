/** A matrix as a picture that can be read: a table, each cell coloured by its number, with a legend. */

import { element } from "./element.js";
import { likewise } from "./numbers.js";

/**
 * The figure for rows of numbers. The scale is symmetric about 0: its ends are two colours that nobody confuses.
 * moved: for each cell, whether it is to be framed.
 */
export function heatmap(rows, { caption, moved = null } = {}) {
  const furthest = Math.max(...rows.flat().map(Math.abs)) || 1;
  const written = likewise(furthest);
  const numbers = rows[0].map((_, column) => column + 1);
  const table = element(
    "table",
    { class: numbers.length > 10 ? "heat dense" : "heat" },
    element("caption", { class: "unseen" }, caption),
    element(
      "thead",
      {},
      element("tr", {}, element("td"), ...numbers.map((n) => element("th", { scope: "col" }, String(n)))),
    ),
    element("tbody", {}, ...rows.map((row, r) => line(row, r, furthest, written, moved?.[r]))),
  );
  return [
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table),
    element("p", { class: "legend" }, written(-furthest), element("span", { class: "ramp" }), written(furthest)),
  ];
}

function line(row, number, furthest, written, moved) {
  const cells = row.map((value, column) => {
    const isMoved = moved?.[column] ?? false;
    const cell = element("td", { class: `${value < 0 ? "low" : "high"}${isMoved ? " moved" : ""}` }, written(value));
    if (isMoved) cell.append(element("span", { class: "unseen" }, " moved"));
    cell.style.setProperty("--share", Math.abs(value) / furthest);
    return cell;
  });
  return element("tr", {}, element("th", { scope: "row" }, String(number + 1)), ...cells);
}
