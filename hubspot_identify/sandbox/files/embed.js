/*
 * Simulates HubSpot's chat widget, including its observed and documented restrictions.
 *
 * Tests can use window.__hubspotSandbox, which the real widget does not have:
 *   log          the recorded actions, oldest first: {at, what, …}
 *   options      {latency, delay, chat, api}: see loader.js; read at each use
 *   emit(name, detail)   sends an event like HubSpot
 *
 * Not simulated: cookie banner, exit intent, tracking cookies, document.referrer.
 */
(() => {
  "use strict";
  const CONTAINER = "hubspot-messages-iframe-container";
  const DAY = 24 * 60 * 60;
  const COOKIES = [
    "messagesUtk",
    "hs-messages-is-open",
    "hs-messages-hide-welcome-message",
    "hs-messages-widget-position_left",
    "hs-messages-widget-position_right",
    "hs-messages-widget-size",
  ];

  // ---- one widget in a window

  if (window.__hubspotSandbox) {
    window.__hubspotSandbox.log.push({ at: performance.now(), what: "duplicate instance" });
    console.warn("HubSpot sandbox: duplicate instance, this copy does not start");
    return;
  }

  const here = new URL(document.currentScript.src);
  const portal = here.searchParams.get("portal");
  const log = [];
  const options = {
    latency: Number(here.searchParams.get("latency") || 0),
    delay: Number(here.searchParams.get("delay") || 0),
    chat: here.searchParams.get("chat") || "",
    api: here.searchParams.get("api") || "",
  };
  const record = (what, detail = {}) => log.push({ at: performance.now(), what, ...detail });
  const warn = (text) => {
    record("warning", { text });
    console.warn(`HubSpot sandbox: ${text}`);
  };
  window.__hubspotSandbox = { log, options, emit: (name, detail) => emitter?.emit(name, detail) };

  const wait = (ms) => new Promise((done) => setTimeout(done, ms));

  // ---- settings: null and wrong types stop the widget

  const text = (value) => typeof value === "string";
  const bool = (value) => typeof value === "boolean";
  const TYPES = {
    loadImmediately: bool,
    identificationEmail: text,
    identificationToken: text,
    inlineEmbedSelector: text,
    enableWidgetCookieBanner: (value) => bool(value) || ["ON_WIDGET_LOAD", "ON_EXIT_INTENT"].includes(value),
    disableAttachment: bool,
    disableInitialInputFocus: bool,
    avoidInlineStyles: bool,
    hideNewThreadLink: bool,
  };

  function readSettings() {
    const settings = window.hsConversationsSettings;
    if (settings === undefined) return {};
    const refuse = (what) => {
      record("invariant violation", { setting: what });
      throw new Error(`Invariant Violation: ${what} has the wrong type`);
    };
    if (settings === null || typeof settings !== "object") refuse("hsConversationsSettings");
    for (const [name, fits] of Object.entries(TYPES)) {
      if (settings[name] !== undefined && !fits(settings[name])) refuse(name);
    }
    return settings;
  }

  // The identity is read once, when a shell is created. E-mail and token are used only together.
  function readIdentity() {
    const { identificationEmail: email, identificationToken: token } = readSettings();
    if (!email !== !token) warn("identificationEmail and identificationToken must both be set, ignoring them");
    const identity = email && token ? { email, token } : null;
    record("identity read", { email: identity ? email : null });
    return identity;
  }

  // ---- cookies, valid for the page's domain and its subdomains

  const domain = location.hostname.replace(/^www\./, "");
  const setCookie = (name, value, seconds) => {
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `${name}=${value}; max-age=${seconds}; domain=.${domain}; path=/; SameSite=Lax${secure}`;
  };
  const cookie = (name) => new RegExp(`(?:^|; )${name}=([^;]*)`).exec(document.cookie)?.[1] ?? "";
  const newUtk = () =>
    [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const renewedUtk = () => {
    const utk = cookie("messagesUtk") || newUtk();
    setCookie("messagesUtk", utk, 180 * DAY);
    return utk;
  };

  // ---- events; a reset creates a new emitter

  const makeEmitter = () => {
    const handlers = new Map();
    return {
      on: (event, handler) => handlers.set(event, [...(handlers.get(event) ?? []), handler]),
      off: (event, handler) =>
        handlers.set(event, (handlers.get(event) ?? []).filter((each) => each !== handler)),
      emit(event, detail) {
        record("event", { event });
        for (const handler of handlers.get(event) ?? []) handler(detail);
      },
    };
  };

  const announce = (messageWillRender) =>
    window.dispatchEvent(
      new CustomEvent("hubspot:messages:initialized", { detail: { messageWillRender } }),
    );

  // Functions in the list at the first flush are called at every flush. Those added later are never called.
  let callbacks = null;
  function flush() {
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

  // At most one call per second. Further calls are ignored.
  const throttled = (name, action) => {
    let last = -Infinity;
    return (...args) => {
      if (performance.now() - last < 1000) return record("throttled", { call: name });
      last = performance.now();
      return action(...args);
    };
  };

  // ---- the widget

  let emitter = null;
  let shell = null; // The full widget of one identity, from its load() until a reset.
  let frame = null; // The displayed iframe, and its shell.

  function boot() {
    const settings = readSettings();
    const mine = (emitter = makeEmitter());
    shell = null;
    // The load() of the early object and that of the full object share one throttle.
    const load = throttled("load", (options) => {
      if (emitter !== mine) warn("widget.load() of a replaced object has no effect");
      else if (shell) loadAgain(shell, options);
      else build(mine, load);
    });
    const early = (name) => () => warn(`${name} has no effect before widget.load()`);
    window.HubSpotConversations = {
      on: mine.on,
      off: mine.off,
      clear: early("clear"),
      resetAndReloadWidget: early("resetAndReloadWidget"),
      debug: () => log,
      widget: {
        load,
        status: () => ({ loaded: false, pending: false }),
        remove: early("widget.remove"),
        refresh: early("widget.refresh"),
        open: early("widget.open"),
        close: early("widget.close"),
      },
    };
    record("started", { loadImmediately: settings.loadImmediately !== false });
    flush();
    if (settings.loadImmediately !== false && !shell && emitter === mine) build(mine, load);
  }

  // The first load() ignores its arguments, and replaces the object window.HubSpotConversations.
  function build(mine, load) {
    const of = {
      emitter: mine,
      identity: readIdentity(),
      utk: "",
      pending: false,
      loaded: false,
      hidden: false,
      identityUnsent: true, // Only the first iframe gets the identity.
      opensWhenDrawn: cookie("hs-messages-is-open") === "true",
    };
    const own = (name, action) => (options) =>
      of === shell ? action(options) : warn(`${name} of a replaced object has no effect`);
    shell = of;
    window.HubSpotConversations = {
      on: mine.on,
      off: mine.off,
      clear: own("clear", (options) => {
        record("clear");
        for (const name of COOKIES) setCookie(name, "", 0);
        if (options?.resetWidget) reset();
      }),
      resetAndReloadWidget: own("resetAndReloadWidget", () => {
        setCookie("messagesUtk", "", 0);
        setCookie("hs-messages-is-open", "", 0);
        reset();
      }),
      debug: () => log,
      widget: {
        load,
        status: () => ({ loaded: of.loaded, pending: of.pending }),
        remove: own("widget.remove", () => remove(of)),
        refresh: own("widget.refresh", throttled("refresh", (options) => refresh(of, options))),
        open: own("widget.open", () => openOrClose(of, true)),
        close: own("widget.close", () => openOrClose(of, false)),
      },
    };
    record("load");
    show(of);
    flush();
  }

  function loadAgain(of, options) {
    if (of.loaded || of.pending) return record("load ignored", { loaded: of.loaded, pending: of.pending });
    record("load");
    if (options?.widgetOpen) of.opensWhenDrawn = true;
    show(of);
  }

  function openOrClose(of, open) {
    if (of.pending) of.opensWhenDrawn = open;
    else tell(of, { type: open ? "open" : "close" });
  }

  // A reset does not cancel a pending load: its response still displays the iframe of its visitor.
  function reset() {
    record("reset", { pending: shell.pending });
    undraw();
    boot();
  }

  function remove(of) {
    record("remove", { pending: of.pending });
    undraw();
    of.loaded = of.pending = of.hidden = false;
    of.identityUnsent = false;
  }

  async function refresh(of, options) {
    if (of.pending) return record("refresh ignored while pending");
    record("refresh", { setIdentification: Boolean(options?.setIdentification) });
    const identifies = Boolean(options?.setIdentification);
    if (identifies && !of.identity) of.identity = readIdentity();
    const answer = await ask(of, identifies);
    if (!answer) return;
    if (identifies && of.identity) tell(of, { type: "identity", ...of.identity });
    if (!answer.chat) return hide(of);
    if (of.hidden) return arrive(of);
    if (options?.openToNewThread) tell(of, { type: "open" });
  }

  async function show(of) {
    const answer = await ask(of);
    if (!answer) return;
    if (answer.chat) arrive(of);
    else hide(of);
  }

  // Calls the API, then waits for the chatflow's delay. The widget is pending meanwhile, and permanently after a failure.
  async function ask(of, identifies = false) {
    of.pending = true;
    if (!of.identity) of.utk = renewedUtk();
    try {
      await wait(options.latency);
      if (options.api === "fail") throw new Error("simulated failure");
      const response = await fetch(address(of, identifies), { credentials: "omit" });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const { known } = await response.json();
      // HubSpot rejected the token, so the visitor is unknown.
      if (of.identity && !known) of.utk = renewedUtk();
      record("call answered", { known, email: of.identity?.email ?? null });
    } catch (error) {
      record("call failed", { error: String(error) });
      return null;
    }
    const chat = options.chat !== "none";
    if (chat) await wait(options.delay);
    of.pending = false;
    return { chat };
  }

  // If window.hsVars exists, the call goes to the page's base URL, which <base> can change.
  function address(of, identifies) {
    const own = window.hsVars
      ? new URL("/livechat-public/", document.baseURI)
      : new URL(`./livechat/${portal}/`, here);
    let query = `?url=${encodeURIComponent(location.href)}`;
    if (of.utk) query += `&messagesUtk=${of.utk}`;
    if (identifies) query += "&setIdentification=true";
    // The widget encodes the e-mail address, but not the token.
    if (of.identity) {
      query += `&email=${encodeURIComponent(of.identity.email)}&identificationToken=${of.identity.token}`;
    }
    record("call", { url: location.href, email: of.identity?.email ?? null });
    return own.href + query;
  }

  function hide(of) {
    if (frame?.of === of) undraw();
    of.loaded = false;
    of.hidden = true;
    of.emitter.emit("widgetHidden", { reason: "NO_CHATFLOW", description: "no chatflow for this page" });
    announce(false);
  }

  function arrive(of) {
    // The iframe of a shell that was reset meanwhile still appears, and replaces any other.
    const late = of !== shell;
    if (late || !frame?.container.isConnected) draw(of);
    of.loaded = true;
    of.hidden = false;
    announce(true);
    of.emitter.emit("widgetLoaded", {});
  }

  // ---- the iframe

  function draw(of) {
    undraw();
    const settings = window.hsConversationsSettings ?? {};
    const spot = settings.inlineEmbedSelector && document.querySelector(settings.inlineEmbedSelector);
    const container = document.createElement("div");
    const iframe = document.createElement("iframe");
    container.id = CONTAINER;
    iframe.id = "hubspot-conversations-iframe";
    iframe.title = "Chat widget";
    iframe.src = new URL(`./chat/${portal}/`, here).href;
    container.append(iframe);
    const inline = Boolean(spot);
    frame = { of, container, iframe, inline, open: inline || of.opensWhenDrawn, queued: [] };
    of.opensWhenDrawn = false;
    place();
    (spot || document.body).append(container);
    record("drawn", { email: of.identity?.email ?? null, late: of !== shell });
  }

  function undraw() {
    frame?.container.remove();
    frame = null;
  }

  function place() {
    const fixed = { position: "fixed", right: "12px", bottom: "12px", zIndex: "2147483647" };
    const size = frame.open
      ? { width: "min(370px, calc(100vw - 24px))", height: "min(480px, calc(100vh - 24px))" }
      : { width: "min(250px, calc(100vw - 24px))", height: "72px" };
    Object.assign(frame.container.style, frame.inline ? { height: "480px" } : { ...fixed, ...size });
    Object.assign(frame.iframe.style, { width: "100%", height: "100%", border: "0", colorScheme: "light" });
  }

  // Sends a message to the iframe of this shell, if it is displayed.
  function tell(of, message) {
    if (frame?.of !== of) return;
    if (frame.queued && message.type !== "start") frame.queued.push(message); // until the iframe has loaded
    else frame.iframe.contentWindow?.postMessage({ hubspotSandbox: message }, here.origin);
  }

  const FROM_IFRAME = {
    ready(of) {
      const identity = of.identityUnsent && of.identity;
      tell(of, { type: "start", open: frame.open, utk: of.utk, page: location.pathname, ...identity });
      of.identityUnsent = false;
      const queued = frame.queued ?? [];
      frame.queued = null;
      for (const message of queued) tell(of, message);
    },
    opened(of, { byVisitor }) {
      frame.open = true;
      place();
      setCookie("hs-messages-is-open", "true", 30 * 60);
      if (byVisitor) of.emitter.emit("userInteractedWithWidget", {});
    },
    closed(of) {
      frame.open = frame.inline;
      place();
      setCookie("hs-messages-is-open", "", 0);
      setCookie("hs-messages-hide-welcome-message", "true", DAY);
      of.emitter.emit("widgetClosed", {});
    },
    typed: (of) => of.emitter.emit("userInteractedWithWidget", {}),
    sent(of, { started, thread, known }) {
      const conversation = { conversation: { conversationId: thread } };
      if (started) of.emitter.emit("conversationStarted", conversation);
      if (known) of.emitter.emit("contactAssociated", conversation);
    },
  };

  window.addEventListener("message", ({ source, origin, data }) => {
    const message = data?.hubspotSandbox;
    if (!message || origin !== here.origin || source !== frame?.iframe.contentWindow) return;
    FROM_IFRAME[message.type]?.(frame.of, message);
  });

  // ---- start, when the page has been parsed

  function start() {
    if (window.disabledHsPopups?.includes?.("LIVE_CHAT")) return record("disabled by disabledHsPopups");
    if (Array.prototype.toJSON) return record("disabled by Array.prototype.toJSON");
    boot();
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start, { once: true });
  else start();
})();
