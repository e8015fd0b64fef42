/** A matrix as people write it: a row a line, numbers with spaces, tabs, commas or semicolons between them. */

const MOST = 64; // rows, and columns: what can still be looked at

/** The rows. Throws an Error that says which line is wrong. */
export function parseMatrix(text) {
  const rows = text
    .split("\n")
    .map((line, number) => numbersOf(line, number + 1))
    .filter((row) => row.length > 0);
  if (rows.length === 0) throw new Error("The matrix has no number in it.");
  const odd = rows.findIndex((row) => row.length !== rows[0].length);
  if (odd !== -1) {
    throw new Error(
      `Row ${odd + 1} has ${rows[odd].length} numbers, row 1 has ${rows[0].length}: they must be as many.`,
    );
  }
  if (rows.length > MOST || rows[0].length > MOST) {
    throw new Error(`The matrix is ${rows.length} by ${rows[0].length}, at most ${MOST} by ${MOST} are shown here.`);
  }
  return rows;
}

function numbersOf(line, number) {
  const words = line
    .replace(/[[\](){}]/g, " ")
    .split(/[\s,;]+/)
    .filter(Boolean);
  return words.map((word) => {
    const value = Number(word.replace("−", "-"));
    if (!Number.isFinite(value)) throw new Error(`Line ${number}: “${word}” is no number.`);
    return value;
  });
}

/** The divisors of a number, the smallest first. */
export function divisors(number) {
  return Array.from({ length: number }, (_, before) => before + 1).filter((divisor) => number % divisor === 0);
}
