/**
 * Loads HubSpot's chat and identifies the visitor of the site in it.
 *
 * Three records describe the state: `visitor` (who uses the site, according to the site), `widget` (what HubSpot's
 * widget shows, and for whom) and `page`. Every event changes a record and then calls reconcile(). reconcile() takes at
 * most one step, which nextStep() selects from the state without changing it.
 *
 * The data attributes of this script's own element configure it: endpoint, loader, load-on, widget, subject, identity,
 * launcher, labels. window.hubspotIdentify controls it. It emits hubspot-identify:* on document. See docs/browser.rst.
 */
(() => {
  "use strict";

  const STORAGE_KEY = "hubspot-identify:subject";
  const CONTAINER_ID = "hubspot-messages-iframe-container";
  const CHAT_COOKIES =
    "messagesUtk hs-messages-is-open hs-messages-hide-welcome-message hs-messages-widget-position_left " +
    "hs-messages-widget-position_right hs-messages-widget-size";
  const WIDGET_EVENTS =
    "conversationStarted conversationClosed userSelectedThread unreadConversationCountChanged contactAssociated " +
    "userInteractedWithWidget widgetLoaded widgetHidden widgetClosed quickReplyButtonClick";
  // All times are in milliseconds.
  const POLL_DELAYS = [400, 1000, 2000]; // between requests while the endpoint responds with 202
  const MIN_CALL_INTERVAL = 1200; // HubSpot drops a load() or refresh() within a second of the previous one
  const STUCK_AFTER = 15000; // a widget that is pending for longer does not recover without help

  // ---- Access to the page. Injected markup must not replace a property: <a id="hsVars"> defines window.hsVars, and
  // <img name="currentScript"> hides document.currentScript.

  /** @returns {any} */
  const windowValue = (name) => (Object.hasOwn(window, name) ? window[name] : undefined);
  const documentValue = (name) => Reflect.get(Document.prototype, name, document);
  const hubspot = () => windowValue("HubSpotConversations"); // load() replaces the object
  const widgetStatus = () => ownProperties(hubspot()?.widget?.status());

  /**
   * Copies an object without its prototype. Other code of the page may have a fault that lets injected JSON add
   * properties to Object.prototype, from which every object that is read here would inherit.
   *
   * @returns {any}
   */
  const ownProperties = (object) => ({ __proto__: null, ...object });

  const currentScript = documentValue("currentScript");
  if (!(currentScript instanceof HTMLScriptElement)) return;
  if (windowValue("hubspotIdentify")) return windowValue("hubspotIdentify").update(currentScript);

  // ---- State

  let config = ownProperties();
  let loadRequested = false; // by LOAD_ON, or by the page through load() or open()

  const visitor = {
    subject: undefined, // undefined: not known yet, "": anonymous, otherwise an opaque digest
    identity: null, // {email, token, expires_in, expiresAt}
    requestId: 0, // a response to an older request is ignored
    isRequesting: false,
  };

  const widget = {
    phase: "waiting", // then "loading", then "ready", "hidden" or "failed"
    token: undefined, // undefined: not started, "": started for an anonymous visitor
    container: null,
    inUse: false, // the visitor has opened the chat, so it must not be rebuilt
    openWhenReady: false,
    mustReset: false, // it shows the chat of a former visitor
    needsRefresh: false, // the address has changed since HubSpot selected the chatflow
    announced: "", // the last of "identified" and "anonymous" that was emitted
    restarted: false, // once, after it was stuck
    calledAt: 0,
    pendingSince: 0,
    ignorePageHold: false, // the page set loadImmediately: false, and then called load() or open()
    heldSettings: undefined, // the settings object in which this script set loadImmediately: false
  };

  const page = {
    address: location.pathname + location.search,
    isHidden: false, // the chat is invisible, because the visitor may have changed since the page was left
    threadWhenLeft: undefined,
  };

  // ---- Helpers

  const timers = new Map();
  const unschedule = (action) => clearTimeout(timers.get(action));

  function schedule(action, delay) {
    unschedule(action);
    timers.set(action, setTimeout(action, delay));
  }

  function emit(name, detail) {
    document.dispatchEvent(new CustomEvent(`hubspot-identify:${name}`, ownProperties({ detail })));
  }

  function fail(reason) {
    widget.phase = "failed";
    emit("failed", { reason });
  }

  /** The absolute URL, or "" unless it is secure or of this origin. Ignores <base>, which may be injected. */
  function safeUrl(text) {
    const { href, origin } = new URL(text, location.origin);
    const isSecure = /^https:|^http:\/\/(localhost|127\.0\.0\.1|\[::1\])(:|$)/.test(origin);
    return isSecure || origin === location.origin ? href : "";
  }

  function addScript(url) {
    const script = document.createElement("script");
    script.src = safeUrl(url);
    script.nonce = currentScript.nonce;
    document.head.append(script);
    return script;
  }

  // ---- Cookies, storage and HubSpot's settings

  const currentThread = () => /messagesUtk=[^;]*/.exec(documentValue("cookie"))?.[0];

  /** Does what HubSpot's clear() does, which is not available before the widget has loaded. */
  function deleteChatCookies() {
    const domain = location.hostname.replace(/^www\./, "");
    for (const name of CHAT_COOKIES.split(" ")) {
      Reflect.set(Document.prototype, "cookie", `${name}=; max-age=0; path=/; domain=.${domain}`, document);
    }
  }

  /** Stores the subject for later pages and other tabs, and returns the one that was stored before. */
  function swapStoredSubject(subject) {
    try {
      const before = localStorage.getItem(STORAGE_KEY);
      if (subject) localStorage.setItem(STORAGE_KEY, subject);
      else localStorage.removeItem(STORAGE_KEY);
      addEventListener("storage", onStorage);
      return before;
    } catch {
      return null;
    }
  }

  function onStorage({ key, newValue }) {
    if ((key ?? STORAGE_KEY) === STORAGE_KEY && (newValue ?? "") !== visitor.subject) recheckVisitor();
  }

  function writeSettings() {
    let settings = windowValue("hsConversationsSettings");
    if (!settings) window.hsConversationsSettings = settings = {};
    for (const [key, value] of Object.entries(JSON.parse(config.widget || "{}"))) settings[key] ??= value;
    const { email, token } = visitor.identity ?? ownProperties();
    for (const [key, value] of Object.entries({ identificationEmail: email, identificationToken: token })) {
      delete settings[key];
      if (value || settings[key]) settings[key] = value ?? ""; // "" hides an inherited value from HubSpot
    }
    return settings;
  }

  // ---- The visitor

  /** Requests the visitor again. Until the response arrives, the widget stays as it is. */
  function recheckVisitor() {
    if (loadRequested) {
      visitor.requestId++;
      visitor.isRequesting = true;
      return schedule(requestVisitor, 200);
    }
    visitor.subject = undefined; // start() sends the request
    visitor.identity = null;
    writeSettings();
  }

  async function requestVisitor() {
    const id = ++visitor.requestId;
    visitor.isRequesting = true;
    let answer;
    try {
      for (const delay of config.endpoint ? [...POLL_DELAYS, 0] : []) {
        const options = {
          headers: { "X-HubSpot-Identify": "1" },
          mode: "same-origin",
          cache: "no-store",
          redirect: "error",
          signal: AbortSignal.timeout(5000),
        };
        const response = await fetch(safeUrl(config.endpoint), ownProperties(options));
        answer = response.ok ? await response.json() : null;
        if (response.status !== 202 || !delay || id !== visitor.requestId) break;
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    } catch {
      answer = null;
    }
    if (id === visitor.requestId) setVisitor(answer);
  }

  /** Takes {subject, identity}. With anything else the visitor is unknown. */
  function setVisitor(answer) {
    unschedule(requestVisitor);
    visitor.requestId++;
    visitor.isRequesting = false;
    const { subject, identity } = ownProperties(answer);
    visitor.identity = subject && identity ? ownProperties(identity) : null;
    writeSettings(); // before a reset, during which HubSpot reads them
    if (visitor.identity) {
      visitor.identity.expiresAt = Date.now() + visitor.identity.expires_in * 1000;
      schedule(onExpiry, visitor.identity.expires_in * 1000);
    }
    if (subject !== undefined) {
      const stored = subject === visitor.subject ? subject : swapStoredSubject(subject);
      const former = visitor.subject || stored;
      visitor.subject = subject ?? "";
      if (former && former !== subject) {
        widget.mustReset = true;
        deleteChatCookies();
        emit("reset");
      } else setChatHidden(false);
    } else {
      widget.mustReset ||= !!widget.token && (page.isHidden || !config.endpoint);
      setChatHidden(false);
      emit("failed", { reason: "endpoint" });
    }
    reconcile();
  }

  function onExpiry() {
    if (!visitor.identity || Date.now() < visitor.identity.expiresAt) return;
    visitor.identity = null;
    writeSettings();
    if (config.endpoint) recheckVisitor();
  }

  // ---- The widget

  function reconcile() {
    unschedule(reconcile);
    if (visitor.isRequesting || !loadRequested || !hubspot()?.widget) return;
    try {
      const { loaded, pending } = widgetStatus();
      const isPending = pending || (widget.token !== undefined && !loaded && widget.phase === "loading");
      observeWidget(loaded, isPending);
      steps[nextStep({ visitor, widget, loaded, isPending }, Date.now())]?.();
    } catch {
      fail("widget");
    }
  }

  /** Records what HubSpot did since the last call. */
  function observeWidget(loaded, isPending) {
    if (loaded || isPending) widget.token ??= "";
    if (isPending) widget.pendingSince ||= Date.now();
    else {
      widget.pendingSince = 0;
      if (loaded && widget.phase === "loading") onWidgetReady();
    }
  }

  /** Returns the name of the next step, or nothing where the widget needs none. Has no side effects. */
  function nextStep({ visitor, widget, loaded, isPending }, now) {
    const wasStarted = widget.token !== undefined;
    if (isPending) {
      // No call cancels a load: the visitor that it was started for would be shown afterwards.
      if (now < widget.pendingSince + STUCK_AFTER || (widget.inUse && !widget.mustReset)) return "pollAgain";
      if (widget.mustReset) return "reloadPage";
      return widget.restarted ? "giveUp" : "restart";
    }
    if (wasStarted && widget.mustReset) return "reset";
    let step;
    if (!wasStarted) step = "load";
    else if (!loaded && widget.phase !== "hidden") return; // the page has removed the widget
    else if (loaded && widget.container?.isConnected === false) step = "rebuild";
    else if (!widget.inUse && (hasNewToken(visitor, widget) || widget.needsRefresh)) step = "refresh";
    else return "announce";
    return now < widget.calledAt + MIN_CALL_INTERVAL ? "waitForThrottle" : step;
  }

  const hasNewToken = ({ identity }, { token }) => Boolean(identity) && identity.token !== token;

  const steps = ownProperties({
    pollAgain: () => schedule(reconcile, 1000),
    waitForThrottle: () => schedule(reconcile, widget.calledAt + MIN_CALL_INTERVAL - Date.now()),
    reloadPage: () => location.reload(),
    giveUp: () => widget.phase === "failed" || fail("widget"),

    restart() {
      widget.restarted = true;
      steps.rebuild();
    },

    load() {
      widget.mustReset = false;
      const settings = writeSettings();
      const isHeldByPage = settings.loadImmediately === false && settings !== widget.heldSettings;
      if (isHeldByPage && !widget.ignorePageHold) return;
      beginCall(visitor.identity?.token ?? "");
      hubspot().widget.load();
      if (settings === widget.heldSettings) delete settings.loadImmediately;
    },

    refresh() {
      const setIdentification = hasNewToken(visitor, widget);
      beginCall(visitor.identity?.token ?? widget.token);
      hubspot().widget.refresh(ownProperties(setIdentification && { setIdentification }));
    },

    /** A rebuilt widget is anonymous. The next refresh() identifies it. */
    rebuild() {
      beginLoading("");
      hubspot().widget.remove();
      hubspot().widget.load();
    },

    /** Removes the former visitor's thread and identity. */
    reset() {
      widget.mustReset = false;
      widget.announced = "";
      deleteChatCookies();
      beginLoading(visitor.identity?.token ?? "");
      hubspot().clear({ resetWidget: true });
      if (writeSettings().loadImmediately === false) hubspot().widget.load();
    },

    announce() {
      const kind = widget.token ? "identified" : "anonymous";
      if (widget.phase === "ready" && widget.announced !== kind) emit((widget.announced = kind));
    },
  });

  function beginCall(token) {
    widget.token = token;
    widget.needsRefresh = false;
    widget.calledAt = Date.now();
    widget.pendingSince = 0;
    // An injected element with this id would send the widget's requests, token included, to another address.
    if (!windowValue("hsVars")) {
      Object.defineProperty(window, "hsVars", ownProperties({ writable: true, configurable: true }));
    }
    schedule(reconcile, 1000);
  }

  function beginLoading(token) {
    widget.phase = "loading";
    widget.container = null;
    page.isHidden = widget.inUse = false;
    beginCall(token);
  }

  const eventHandlers = WIDGET_EVENTS.split(" ").map((name) => [name, (detail) => onWidgetEvent(name, detail)]);

  /** HubSpot calls this after each start and reset, sometimes more than once. */
  function onHubSpotReady() {
    for (const [name, handler] of eventHandlers) {
      hubspot().off(name, handler);
      hubspot().on(name, handler);
    }
    reconcile();
  }

  function registerOnReady() {
    const callbacks = windowValue("hsConversationsOnReady");
    if (!Array.isArray(callbacks)) window.hsConversationsOnReady = [onHubSpotReady];
    else if (!callbacks.includes(onHubSpotReady)) callbacks.push(onHubSpotReady);
    if (hubspot()?.on) onHubSpotReady();
  }

  function onWidgetEvent(name, detail) {
    emit(name, detail);
    if (name === "userInteractedWithWidget") setInUse(true);
    if (name === "widgetClosed") setInUse(false);
    if (name === "widgetHidden") {
      widget.phase = "hidden";
      widget.openWhenReady = widget.inUse = false;
    }
    if (name === "widgetLoaded") onWidgetReady();
    reconcile();
  }

  function onWidgetReady() {
    widget.phase = "ready";
    widget.restarted = false;
    setContainer(document.querySelector(`#${CONTAINER_ID}:has(iframe)`)); // an injected one has no iframe
    emit("ready");
    if (widget.openWhenReady && !widget.mustReset) api.open();
  }

  /** Keeps htmx from storing the page while the chat is in use. */
  function setInUse(inUse) {
    widget.inUse = inUse;
    widget.container?.setAttribute("data-hx-history", String(!inUse));
  }

  // ---- The container, in pages whose body is replaced (htmx, Turbo)

  const observer = new MutationObserver(() => {
    // A body restored from a snapshot contains a copy of the container, whose iframe does not work.
    for (const element of document.querySelectorAll(`#${CONTAINER_ID}[data-hubspot-identify]`)) {
      if (element !== widget.container) element.remove();
    }
    if (widget.container?.isConnected === false) recheckVisitor();
  });

  function setContainer(container) {
    widget.container = container;
    if (!container) return;
    container.setAttribute("data-hubspot-identify", "");
    setChatHidden(page.isHidden);
    observer.disconnect();
    for (const parent of [document.documentElement, container.parentNode]) {
      observer.observe(parent, ownProperties({ childList: true }));
    }
  }

  function setChatHidden(hidden) {
    page.isHidden = hidden;
    if (widget.container) widget.container.style.visibility = hidden ? "hidden" : "";
  }

  // ---- The page: navigation, snapshots, the back/forward cache

  function onNavigation() {
    const address = location.pathname + location.search;
    if (page.address === address) return;
    page.address = address;
    widget.needsRefresh = true;
    if (config.endpoint) recheckVisitor();
    else reconcile();
  }

  windowValue("navigation")?.addEventListener("currententrychange", onNavigation);
  for (const snapshot of ["turbo:before-cache", "htmx:beforeHistorySave"]) {
    addEventListener(snapshot, () => widget.inUse || widget.container?.remove());
  }
  addEventListener("pagehide", () => {
    page.threadWhenLeft = currentThread();
    setChatHidden(true);
  });
  addEventListener("pageshow", ({ persisted }) => {
    if (!persisted) return;
    // A different thread means that another person used this browser in the meantime.
    widget.mustReset ||= widget.token !== undefined && page.threadWhenLeft !== currentThread();
    recheckVisitor();
  });
  addEventListener("visibilitychange", onExpiry);

  // ---- Start

  /** Reads the configuration from a script element: the first one, or that of a later page in the same document. */
  function configure(script) {
    const read = (name) => script.getAttribute(`data-${name}`);
    const subject = read("subject");
    const identity = read("identity");
    script.removeAttribute("data-subject");
    script.removeAttribute("data-identity");
    if (config.loader && read("loader") && read("loader") !== config.loader) return;
    const isFirst = !config.loadOn;
    config = ownProperties({ loadOn: read("load-on") || "page" });
    for (const name of ["endpoint", "loader", "widget", "launcher", "labels"]) config[name] = read(name);
    if (config.loadOn === "never") return withdraw();
    if (!loadRequested) holdWidget();
    // A page from a cache contains the visitor that it was rendered for.
    const [entry] = performance.getEntriesByType("navigation");
    const isCached = isFirst && entry && !entry.transferSize && (config.endpoint || entry.type === "back_forward");
    if (isCached || subject === null) recheckVisitor();
    else setVisitor({ subject: subject || null, identity: JSON.parse(identity || "null") });
    if (config.loadOn === "page") start();
    if (config.loadOn === "idle") {
      const whenIdle = () => (windowValue("requestIdleCallback") ?? setTimeout)(start);
      if (document.readyState === "complete") whenIdle();
      else addEventListener("load", whenIdle);
    }
    if (config.launcher && !loadRequested) addScript(config.launcher).dataset.labels = config.labels ?? "";
  }

  /** Keeps HubSpot from loading the widget before the visitor is known. */
  function holdWidget() {
    const settings = writeSettings();
    if (widgetStatus().loaded || widgetStatus().pending || settings.loadImmediately === false) return;
    settings.loadImmediately = false;
    widget.heldSettings = settings;
  }

  function start() {
    if (loadRequested || config.loadOn === "never") return;
    loadRequested = true;
    if (widget.token === undefined) widget.phase = "loading";
    if (visitor.subject === undefined) requestVisitor();
    holdWidget();
    registerOnReady();
    addEventListener("load", registerOnReady);
    setTimeout(() => hubspot() || widget.phase === "failed" || fail("loader"), STUCK_AFTER);
    if (!config.loader || document.querySelector('script#hs-script-loader, script[src*=".hs-scripts.com/"]')) return;
    const script = addScript(config.loader);
    script.id = "hs-script-loader"; // without this id the loader would add itself again
    script.onerror = () => fail("loader");
  }

  /** Without consent: removes the chat, and what earlier pages stored. */
  function withdraw() {
    loadRequested = false;
    setVisitor({ subject: null });
    visitor.subject = undefined;
    deleteChatCookies();
    widget.mustReset = widget.token !== undefined;
    widget.phase = "waiting";
    emit("failed", { reason: "consent" });
    if (widget.mustReset && widgetStatus().pending) location.reload();
    if (widgetStatus().loaded) hubspot().widget.remove();
  }

  const api = (window.hubspotIdentify = {
    load() {
      widget.ignorePageHold = true;
      start();
      reconcile();
    },
    open() {
      widget.openWhenReady = widget.phase !== "ready";
      if (widget.openWhenReady) return api.load();
      setInUse(true);
      hubspot().widget.open();
    },
    close() {
      widget.openWhenReady = false;
      if (widget.phase === "ready") hubspot().widget.close();
    },
    refresh() {
      widget.needsRefresh = true;
      schedule(reconcile, 0); // several calls in one task make one refresh
    },
    update(script) {
      if (script instanceof HTMLScriptElement) configure(script);
      else recheckVisitor();
    },
    reset() {
      visitor.subject ||= "former";
      setVisitor({ subject: null });
    },
    status: () => ({ ...widgetStatus(), state: widget.phase, identified: widget.announced === "identified" }),
  });
  configure(currentScript);
})();
