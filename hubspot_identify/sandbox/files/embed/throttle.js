/* At most one call a second. */
import { record } from "./log.js";

const INTERVAL = 1000;

/**
 * Returns a function that calls the action at most once a second. Of the calls within a second of the previous one,
 * only the last is made, when the second is over.
 */
export function throttled(name, action) {
  let calledAt = -Infinity;
  let timer;
  let lastArguments;
  const call = () => {
    timer = undefined;
    calledAt = performance.now();
    action(...lastArguments);
  };
  return (...args) => {
    lastArguments = args;
    const remaining = calledAt + INTERVAL - performance.now();
    if (remaining <= 0 && !timer) return call();
    record("throttled", { call: name });
    timer ??= setTimeout(call, remaining);
  };
}
