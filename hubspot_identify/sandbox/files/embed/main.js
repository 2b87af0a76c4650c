/*
 * Simulates HubSpot's chat widget, with the restrictions that were observed in the real one or are documented.
 *
 * Tests can use window.__hubspotSandbox, which the real widget does not have:
 *   log          the actions of the widget; see log.js
 *   visitor      the one that the chat shows: an e-mail address, "unknown" (anonymous), or undefined if there is no chat
 *   options      {latency, delay, chat, api, frame, welcome}: see ../loader.js; read at each use
 *   emit(name, detail)   sends an event as HubSpot does
 *
 * Not simulated: cookie banner, exit intent, tracking cookies, document.referrer.
 */
import { Emitter, callReadyCallbacks } from "./events.js";
import { log, record, warn } from "./log.js";
import { readSettings } from "./settings.js";
import { throttled } from "./throttle.js";
import { Widget } from "./widget.js";

const LOADER_ID = "hubspot-messages-loader";

/** HubSpot's script in the page: it has one widget after load(), and at most one iframe. */
class Embed {
  emitter = null;
  widget = null;
  frame = null;
  #styleSheet = null;

  constructor(url, options) {
    this.url = url;
    this.portal = new URL(url).searchParams.get("portal");
    this.options = options;
  }

  start() {
    const { loadImmediately = true } = readSettings();
    const emitter = (this.emitter = new Emitter());
    this.widget = null;
    this.#addStyleSheet();
    // The load() of the first object and that of the widget's object share one throttle.
    const load = throttled("load", (options) => {
      if (this.emitter !== emitter) warn("widget.load() of a replaced object has no effect");
      else if (this.widget) this.widget.load(options);
      else this.#buildWidget(load); // ignores the options
    });
    window.HubSpotConversations = objectBeforeLoad(emitter, load);
    record("started", { loadImmediately });
    callReadyCallbacks();
    // A callback may have called load() or reset the widget.
    if (loadImmediately && this.emitter === emitter && !this.widget) this.#buildWidget(load);
  }

  #buildWidget(load) {
    this.widget = new Widget(this);
    window.HubSpotConversations = this.widget.publicObject(load);
    this.widget.load();
    callReadyCallbacks();
  }

  /** Starts again for the next visitor. A load that is pending continues, and its iframe still appears. */
  reset() {
    record("reset", { pending: this.widget.isPending });
    if (!document.getElementById(LOADER_ID)) throw new Error(`HubSpot sandbox: there is no #${LOADER_ID}`);
    this.removeFrame();
    this.start();
  }

  removeFrame() {
    this.frame?.remove();
    this.frame = null;
  }

  /** The browser fetches the style sheet again at each start. */
  #addStyleSheet() {
    this.#styleSheet?.remove();
    this.#styleSheet = document.createElement("link");
    this.#styleSheet.rel = "stylesheet";
    this.#styleSheet.href = new URL("widget.css", this.url).href;
    document.head.append(this.#styleSheet);
  }
}

function objectBeforeLoad({ on, off }, load) {
  const ignored = (name) => () => warn(`${name} has no effect before widget.load()`);
  return {
    on,
    off,
    clear: ignored("clear"),
    resetAndReloadWidget: ignored("resetAndReloadWidget"),
    debug: () => log,
    widget: {
      load,
      status: () => ({ loaded: false, pending: false }),
      remove: ignored("widget.remove"),
      refresh: ignored("widget.refresh"),
      open: ignored("widget.open"),
      close: ignored("widget.close"),
    },
  };
}

function optionsFrom({ searchParams, origin }) {
  return {
    latency: Number(searchParams.get("latency") ?? 0),
    delay: Number(searchParams.get("delay") ?? 0),
    chat: searchParams.get("chat") ?? "",
    api: searchParams.get("api") ?? "",
    frame: searchParams.get("frame") ?? origin,
    welcome: searchParams.has("welcome"),
  };
}

function run() {
  const url = import.meta.url;
  const embed = new Embed(url, optionsFrom(new URL(url)));
  window.__hubspotSandbox = {
    log,
    options: embed.options,
    emit: (name, detail) => embed.emitter?.emit(name, detail),
    get visitor() {
      return embed.frame?.visitor;
    },
  };
  const start = () => {
    if (window.disabledHsPopups?.includes?.("LIVE_CHAT")) record("disabled by disabledHsPopups");
    else if ("toJSON" in Array.prototype) record("disabled by Array.prototype.toJSON");
    else embed.start();
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start, { once: true });
  else start();
}

if (window.__hubspotSandbox) {
  record("duplicate instance");
  console.warn("HubSpot sandbox: duplicate instance, this copy does not start");
} else {
  run();
}
