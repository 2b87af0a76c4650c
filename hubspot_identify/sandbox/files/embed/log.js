/* What the widget did, for tests: window.__hubspotSandbox.log. */

/** The recorded actions, oldest first: {at, what, …}. */
export const log = [];

export function record(what, detail = {}) {
  log.push({ at: performance.now(), what, ...detail });
}

export function warn(text) {
  record("warning", { text });
  console.warn(`HubSpot sandbox: ${text}`);
}
