/* HubSpot's events, and the callbacks of pages that wait for its object. */
import { record } from "./log.js";

/** A reset creates a new emitter, without the handlers of the previous one. */
export class Emitter {
  #handlers = new Map();

  on = (event, handler) => {
    this.#handlers.set(event, [...this.#handlersOf(event), handler]);
  };

  off = (event, handler) => {
    const others = this.#handlersOf(event).filter((each) => each !== handler);
    this.#handlers.set(event, others);
  };

  emit(event, detail = {}) {
    record("event", { event });
    for (const handler of this.#handlersOf(event)) handler(detail);
  }

  #handlersOf(event) {
    return this.#handlers.get(event) ?? [];
  }
}

let callbacks;

/** Calls the functions that were in the list at the first call. Those added later are never called. */
export function callReadyCallbacks() {
  callbacks ??= Array.isArray(window.hsConversationsOnReady) ? [...window.hsConversationsOnReady] : [];
  record("ready callbacks", { count: callbacks.length });
  for (const callback of callbacks) {
    try {
      callback();
    } catch (error) {
      console.error(error);
    }
  }
}

/** Dispatches the window event that HubSpot sends after each load. */
export function announce(messageWillRender) {
  window.dispatchEvent(new CustomEvent("hubspot:messages:initialized", { detail: { messageWillRender } }));
}
