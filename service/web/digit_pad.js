/**
 * A digit being drawn: 32 x 32 pixels, of which each 4 x 4 block is a cell of 0 to 16, as scikit-learn's digits were
 * made. By mouse, pen and finger pixels are inked; by keyboard whole cells are.
 */

import { byId } from "./element.js";

const SIZE = 32;
const CELLS = 8;
const BLOCK = SIZE / CELLS;
const FULL = BLOCK * BLOCK;
const RADIUS = 2.1; // of the pen: a stroke is about as wide as a cell
const WIDEST = 28; // a digit of the data set leaves room at the sides
const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

export class DigitPad {
  #canvas = byId("pad");
  #cursor = byId("pad-cursor");
  #ink = new Float32Array(SIZE * SIZE); // 0 to 1
  #row = 0;
  #column = 0;
  #last = null; // where the pen was
  #changed;

  /** changed: called without parameters whenever `cells` may be others. */
  constructor(changed) {
    this.#changed = changed;
    this.#listen();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
  }

  /** The 64 cells, 0 to 16, row by row. */
  get cells() {
    return Array.from({ length: CELLS * CELLS }, (_, cell) => this.#cell(Math.floor(cell / CELLS), cell % CELLS));
  }

  /** Another digit. */
  set cells(values) {
    values.forEach((value, cell) => this.#fill(Math.floor(cell / CELLS), cell % CELLS, value));
    this.#done();
  }

  clear() {
    this.#ink.fill(0);
    this.#done();
  }

  /** As large as those of the data set, which fill their frame, and in the middle. */
  fit() {
    const inked = [...this.#ink.keys()].filter((pixel) => this.#ink[pixel] > 0);
    if (inked.length === 0) return;
    const rows = inked.map((pixel) => Math.floor(pixel / SIZE));
    const columns = inked.map((pixel) => pixel % SIZE);
    const [top, left] = [Math.min(...rows), Math.min(...columns)];
    const [height, width] = [Math.max(...rows) - top + 1, Math.max(...columns) - left + 1];
    const scale = Math.min(SIZE / height, WIDEST / width);
    const [above, before] = [(SIZE - height * scale) / 2, (SIZE - width * scale) / 2];
    const from = this.#ink.slice();
    this.#ink = this.#ink.map((_, pixel) => {
      const row = Math.floor((Math.floor(pixel / SIZE) + 0.5 - above) / scale);
      const column = Math.floor(((pixel % SIZE) + 0.5 - before) / scale);
      const isInside = row >= 0 && row < height && column >= 0 && column < width;
      return isInside ? from[(top + row) * SIZE + left + column] : 0;
    });
    this.#done();
  }

  #cell(row, column) {
    let sum = 0;
    for (let y = row * BLOCK; y < (row + 1) * BLOCK; y++) {
      for (let x = column * BLOCK; x < (column + 1) * BLOCK; x++) sum += this.#ink[y * SIZE + x];
    }
    return Math.round(sum);
  }

  #fill(row, column, value) {
    for (let y = row * BLOCK; y < (row + 1) * BLOCK; y++) {
      this.#ink.fill(value / FULL, y * SIZE + column * BLOCK, y * SIZE + (column + 1) * BLOCK);
    }
  }

  #listen() {
    const canvas = this.#canvas;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.#last = this.#place(event);
      this.#stroke(this.#last);
      this.#done();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.#last === null) return;
      const passed = event.getCoalescedEvents?.() ?? [];
      for (const each of passed.length > 0 ? passed : [event]) this.#stroke(this.#place(each));
      this.#done();
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.#last = null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => this.#point(canvas.matches(":focus-visible")));
    canvas.addEventListener("blur", () => this.#point(false));
  }

  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIZE, ((event.clientY - box.top) / box.height) * SIZE];
  }

  #stroke([x, y]) {
    const [fromX, fromY] = this.#last;
    const steps = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY)));
    for (let step = 1; step <= steps; step++) {
      this.#dot(fromX + ((x - fromX) * step) / steps, fromY + ((y - fromY) * step) / steps);
    }
    this.#last = [x, y];
  }

  #dot(x, y) {
    const ink = byId("pad-erase").checked ? 0 : 1;
    for (let row = Math.max(0, Math.floor(y - RADIUS)); row <= Math.min(SIZE - 1, y + RADIUS); row++) {
      for (let column = Math.max(0, Math.floor(x - RADIUS)); column <= Math.min(SIZE - 1, x + RADIUS); column++) {
        if (Math.hypot(column + 0.5 - x, row + 0.5 - y) <= RADIUS) this.#ink[row * SIZE + column] = ink;
      }
    }
  }

  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const value = this.#cell(this.#row, this.#column);
    if (event.key in MOVES) {
      const [down, right] = MOVES[event.key];
      this.#row = Math.min(CELLS - 1, Math.max(0, this.#row + down));
      this.#column = Math.min(CELLS - 1, Math.max(0, this.#column + right));
    } else if (event.key === " " || event.key === "Enter") {
      this.#fill(this.#row, this.#column, value < FULL ? FULL : 0);
    } else if (event.key === "+" || event.key === "=") {
      this.#fill(this.#row, this.#column, Math.min(FULL, value + 4));
    } else if (event.key === "-" || event.key === "Delete" || event.key === "Backspace") {
      this.#fill(this.#row, this.#column, event.key === "-" ? Math.max(0, value - 4) : 0);
    } else {
      return;
    }
    event.preventDefault();
    this.#point(true);
    if (!(event.key in MOVES)) this.#done();
  }

  /** Show, and say, where the keyboard is. */
  #point(isShown) {
    this.#cursor.hidden = !isShown;
    this.#cursor.style.setProperty("--row", this.#row);
    this.#cursor.style.setProperty("--column", this.#column);
    if (!isShown) return;
    const value = this.#cell(this.#row, this.#column);
    byId("pad-status").textContent = `row ${this.#row + 1}, column ${this.#column + 1}: ${value} of ${FULL}`;
  }

  #done() {
    this.#paint();
    this.#changed();
  }

  #paint() {
    const context = this.#canvas.getContext("2d");
    context.clearRect(0, 0, SIZE, SIZE);
    context.fillStyle = getComputedStyle(this.#canvas).color;
    this.#ink.forEach((ink, pixel) => {
      context.globalAlpha = ink;
      if (ink > 0) context.fillRect(pixel % SIZE, Math.floor(pixel / SIZE), 1, 1);
    });
  }
}
