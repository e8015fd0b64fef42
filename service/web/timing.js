/** When work is done that could be asked for faster than it can be. */

/**
 * `work`, one at a time: asked for while it runs, it runs once more afterwards, with the last arguments.
 * So whatever is drawn or dragged, the server has one request of it at a time, and the last state is always shown.
 */
export function oneAtATime(work) {
  let running = false;
  let waiting = null;
  return async function run(...parameters) {
    if (running) {
      waiting = parameters;
      return;
    }
    running = true;
    try {
      await work(...parameters);
    } finally {
      running = false;
      if (waiting !== null) {
        const next = waiting;
        waiting = null;
        run(...next);
      }
    }
  };
}

/** `work`, once nothing has asked for it for so long: for what is read aloud. */
export function onceQuiet(milliseconds, work) {
  let timer = 0;
  return (...parameters) => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds, ...parameters);
  };
}

/** A pause. */
export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
