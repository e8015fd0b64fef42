/** The API key, where the server asks for one: kept in this tab, asked for when an answer is 401. */

import { byId, showError } from "./element.js";

const STORED = "normserve-api-key";

/** The headers that show the key, where there is one. */
export function keyHeaders() {
  const key = sessionStorage.getItem(STORED);
  return key === null ? {} : { "X-API-Key": key };
}

/** An answer was 401: ask for a key. */
export function askForKey(error) {
  const form = byId("key-form");
  showError(byId("key-error"), error);
  if (!form.hidden) return;
  form.hidden = false;
  byId("key-input").focus();
}

/** Let the form take the key, if `isRight` finds that it is, and the page begin again with it. */
export function useKeyForm(isRight) {
  byId("key-forget").hidden = sessionStorage.getItem(STORED) === null;
  byId("key-forget").addEventListener("click", () => {
    sessionStorage.removeItem(STORED);
    location.reload();
  });
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    sessionStorage.setItem(STORED, byId("key-input").value);
    try {
      await isRight();
    } catch (error) {
      sessionStorage.removeItem(STORED);
      showError(byId("key-error"), error);
      byId("key-input").select();
      return;
    }
    location.reload();
  });
}
