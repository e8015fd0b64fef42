/** Elements of the page: found, and made. */

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element. Attributes that are functions are listeners (`onclick`), `true` is an attribute without a value, and
 * `false` or null none; children are elements or text, never HTML.
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(attribute.slice(2), value);
    else if (value === true) made.setAttribute(attribute, "");
    else if (value !== false && value != null) made.setAttribute(attribute, value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

/** Show what went wrong, in the server's own words; null: nothing did. */
export function showError(place, error) {
  const message = error === null ? "" : error.message;
  if (place.textContent !== message) place.textContent = message;
}
