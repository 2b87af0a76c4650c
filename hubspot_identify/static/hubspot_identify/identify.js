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
  const CONTAINER = "#hubspot-messages-iframe-container";

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

  /**
   * Who uses the site:
   *
   * subject         undefined: not known yet, "": anonymous, otherwise an opaque digest
   * email, token    "": anonymous, not identified yet, or expired
   * request         the request in progress; the response to an older one is ignored
   * requestedAt
   * failures        of the endpoint, in succession
   * mayHaveChanged  since the last response; if the next request fails, the subject is no longer trusted
   * isUncertain     a visitor was here before, and the present one is unknown: no chat is visible
   * overruled       the stored subject that was overwritten, although the visitor was the same
   */
  const visitor = ownProperties({ email: "", token: "", failures: 0 });

  /**
   * HubSpot's widget:
   *
   * phase           "waiting", then "loading", then "ready", "hidden" or "failed"
   * token           undefined: not started, "": started for an anonymous visitor
   * containers      HubSpot's, and injected elements that look the same
   * inUse           the visitor has opened the chat, so it must not be rebuilt
   * openWhenReady
   * mustReset       it shows the chat of a former visitor, and is hidden until it is reset
   * needsRefresh    the address has changed since HubSpot selected the chatflow
   * announced       the last of "identified" and "anonymous" that was emitted
   * restarted       once, after it was stuck
   * calledAt, pendingSince
   * ignorePageHold  the page set loadImmediately: false, and then called load() or open()
   * heldSettings    the settings object in which this script set loadImmediately: false
   */
  const widget = ownProperties({ phase: "waiting", containers: [] });

  const currentAddress = () => location.pathname + location.search;

  /** The page: its address, and its threadWhenLeft for the back/forward cache. */
  const page = ownProperties({ address: currentAddress() });

  // ---- Helpers

  const timers = new Map();
  const unschedule = (action) => clearTimeout(timers.get(action));

  function schedule(action, delay) {
    unschedule(action);
    timers.set(action, setTimeout(action, delay));
  }

  function emit(name, detail) {
    const options = ownProperties({ detail });
    documentValue("dispatchEvent").call(document, new CustomEvent(`hubspot-identify:${name}`, options));
  }

  function fail(reason) {
    if (widget.phase !== "failed") emit("failed", { reason });
    widget.phase = "failed";
  }

  /** The absolute URL, or "" unless it is secure or of this origin. Ignores <base>, which may be injected. */
  function safeUrl(text) {
    const { href, origin } = new URL(text, location.origin);
    if (origin === location.origin) return href;
    return /^https:|^http:\/\/(localhost|127\.0\.0\.1|\[::1\])(:|$)/.test(origin) ? href : "";
  }

  function addScript(url) {
    const script = document.createElement("script");
    script.src = safeUrl(url);
    script.nonce = config.nonce; // of the element that names the URL: the page's own, or none
    document.head.append(script);
    return script;
  }

  // ---- Cookies, storage and HubSpot's settings

  const currentThread = () => /messagesUtk=[^;]*/.exec(documentValue("cookie"))?.[0];

  /** Does what HubSpot's clear() does, which is not available before the widget has loaded. */
  function deleteChatCookies() {
    const domain = location.hostname.replace(/^www\./, "");
    const names =
      "messagesUtk hs-messages-is-open hs-messages-hide-welcome-message hs-messages-widget-position_left " +
      "hs-messages-widget-position_right hs-messages-widget-size";
    for (const name of names.split(" ")) {
      Reflect.set(Document.prototype, "cookie", `${name}=; max-age=0; path=/; domain=.${domain}`, document);
    }
  }

  /** The subject that this or another tab has stored. If storage is unavailable, no other visitor is known. */
  function storedSubject(method = "getItem", ...values) {
    try {
      return localStorage[method](STORAGE_KEY, ...values) ?? "";
    } catch {
      return visitor.subject;
    }
  }

  function writeSettings() {
    let settings = windowValue("hsConversationsSettings");
    if (!settings) window.hsConversationsSettings = settings = {};
    for (const [key, value] of Object.entries(JSON.parse(config.widget || "{}"))) settings[key] ??= value;
    const identity = { identificationEmail: visitor.email, identificationToken: visitor.token };
    for (const [key, value] of Object.entries(identity)) {
      delete settings[key];
      if (value || settings[key]) settings[key] = value; // "" hides an inherited value from HubSpot
    }
    return settings;
  }

  // ---- The visitor

  /** Requests the visitor again. Until the response arrives, the widget stays as it is. */
  function recheckVisitor(mayHaveChanged) {
    visitor.mayHaveChanged ||= mayHaveChanged;
    if (!config.endpoint && !mayHaveChanged) return reconcile();
    if (loadRequested) {
      visitor.request = {};
      return schedule(requestVisitor, 200);
    }
    visitor.subject = undefined; // start() sends the request
    setIdentity();
  }

  async function requestVisitor() {
    const request = (visitor.request = {});
    const stored = storedSubject();
    visitor.requestedAt = Date.now();
    let answer;
    try {
      // While the endpoint responds with 202, it is worth waiting for the token.
      for (const delay of config.endpoint ? [400, 1000, 2000, 0] : []) {
        const headers = { "X-HubSpot-Identify": "1" };
        const signal = AbortSignal.timeout(5000);
        const options = { headers, signal, mode: "same-origin", cache: "no-store", redirect: "manual" };
        const response = await fetch(safeUrl(config.endpoint), ownProperties(options));
        // A redirect (status 0) or another page in place of the response suggests that the session has ended.
        visitor.mayHaveChanged ||= response.status < 500;
        if (response.ok) answer = await response.json();
        if (response.status !== 202 || !delay || request !== visitor.request) break;
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    } catch {
      // Without a response the visitor is unknown.
    }
    if (request !== visitor.request) return;
    // Another tab has stored a different visitor since the request: the response may be older than the change.
    if (storedSubject() !== stored) recheckVisitor();
    else setVisitor(answer);
  }

  /** Takes {subject, identity}. With anything else the visitor is unknown. */
  function setVisitor(answer) {
    unschedule(requestVisitor);
    visitor.request = undefined;
    const { subject, identity } = ownProperties(answer);
    setIdentity(subject && identity); // before a reset, during which HubSpot reads it
    const stored = storedSubject();
    const former = visitor.subject || stored;
    if (subject !== undefined) {
      const known = subject ?? "";
      // One session can have different subjects in two tabs (two accounts). They overwrite each other only once.
      if (stored !== known && (known !== visitor.subject || stored !== visitor.overruled)) {
        visitor.overruled = known === visitor.subject && stored;
        storedSubject(known ? "setItem" : "removeItem", known);
      }
      visitor.subject = known;
      if (former && former !== known) {
        widget.mustReset = true;
        deleteChatCookies();
        emit("reset");
      }
      visitor.failures = 0;
      visitor.mayHaveChanged = visitor.isUncertain = false;
    } else {
      if (!visitor.failures++) emit("failed", { reason: "endpoint" });
      visitor.isUncertain = former && (visitor.mayHaveChanged || stored !== visitor.subject);
      // After 2 s, then after twice as long each time, at most after 5 min.
      if (former && config.endpoint) schedule(requestVisitor, Math.min(1000 * 2 ** visitor.failures, 3e5));
    }
    reconcile();
  }

  function setIdentity(identity) {
    const { email, token, expires_in } = ownProperties(identity);
    visitor.email = email ?? "";
    visitor.token = token ?? "";
    writeSettings();
    if (token) schedule(onExpiry, expires_in * 1000);
  }

  function onExpiry() {
    setIdentity();
    recheckVisitor();
  }

  // ---- The widget

  function reconcile() {
    unschedule(reconcile);
    hidingSheet.disabled = !(visitor.isUncertain || widget.mustReset);
    if (visitor.request || visitor.isUncertain || !loadRequested || !hubspot()?.widget) return;
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
    if (isPending) {
      // No call cancels a load: the visitor that it was started for would be shown afterwards. After 15 s it is stuck.
      if (now < widget.pendingSince + 15000 || (widget.inUse && !widget.mustReset)) return "wait";
      if (widget.mustReset) return "reloadPage";
      return widget.restarted ? "giveUp" : "restart";
    }
    if (widget.mustReset && widget.token !== undefined) return "reset";
    let step;
    if (widget.token === undefined) step = "load";
    else if (!loaded && widget.phase !== "hidden") return; // the page has removed the widget
    else if (loaded && isContainerLost(widget)) step = "rebuild";
    else if (!widget.inUse && (hasNewToken(visitor, widget) || widget.needsRefresh)) step = "refresh";
    else return "announce";
    return now < widget.calledAt + 1200 ? "wait" : step; // HubSpot drops a call within a second of the previous one
  }

  const hasNewToken = (visitor, widget) => visitor.token && visitor.token !== widget.token;

  const steps = ownProperties({
    wait: () => schedule(reconcile, 400),
    reloadPage: () => location.reload(),
    giveUp: () => fail("widget"),

    restart() {
      widget.restarted = true;
      steps.rebuild();
    },

    load() {
      widget.mustReset = false;
      const settings = writeSettings();
      const isHeld = settings.loadImmediately === false && settings !== widget.heldSettings;
      if (isHeld && !widget.ignorePageHold) return;
      beginCall(visitor.token);
      hubspot().widget.load();
      if (settings === widget.heldSettings) delete settings.loadImmediately;
    },

    refresh() {
      const options = ownProperties(hasNewToken(visitor, widget) && { setIdentification: true });
      beginCall(visitor.token || widget.token);
      hubspot().widget.refresh(options);
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
      beginLoading(visitor.token);
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
    steps.wait();
  }

  function beginLoading(token) {
    beginCall(token);
    widget.phase = "loading";
    widget.containers = [];
    widget.inUse = false;
  }

  const eventHandlers = (
    "conversationStarted conversationClosed userSelectedThread unreadConversationCountChanged contactAssociated " +
    "userInteractedWithWidget widgetLoaded widgetHidden widgetClosed quickReplyButtonClick"
  )
    .split(" ")
    .map((name) => [name, (detail) => onWidgetEvent(name, detail)]);

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
    widget.containers = findContainers();
    for (const container of widget.containers) {
      container.setAttribute("data-hubspot-identify", "");
      for (const parent of [document.documentElement, container.parentNode]) {
        observer.observe(parent, ownProperties({ childList: true }));
      }
    }
    emit("ready");
    if (widget.openWhenReady && !widget.mustReset) api.open();
  }

  /** Keeps htmx from storing the page while the chat is in use. */
  function setInUse(inUse) {
    widget.inUse = inUse;
    for (const container of widget.containers) container.setAttribute("data-hx-history", String(!inUse));
  }

  // ---- The container, in pages whose body is replaced (htmx, Turbo)

  const observer = new MutationObserver(() => {
    // A body restored from a snapshot contains a copy of the container, whose iframe does not work.
    for (const element of findContainers()) {
      if (element.hasAttribute("data-hubspot-identify") && !widget.containers.includes(element)) element.remove();
    }
    // While the endpoint fails, its request is repeated anyway, and not for each change of the page.
    if (!visitor.failures && isContainerLost(widget)) recheckVisitor(true);
  });
  const findContainers = () => [...documentValue("querySelectorAll").call(document, CONTAINER)];
  const isContainerLost = ({ containers }) => containers[0] && !containers.some((element) => element.isConnected);

  // A style sheet also hides a container that HubSpot has not inserted yet, and needs no permission of a policy.
  const hidingSheet = new CSSStyleSheet();
  hidingSheet.replaceSync(`${CONTAINER}, ${CONTAINER} * { visibility: hidden !important; }`);
  hidingSheet.disabled = true;
  documentValue("adoptedStyleSheets").push(hidingSheet);

  // ---- The page: navigation, snapshots, the back/forward cache

  function onNavigation() {
    if (page.address === currentAddress()) return;
    page.address = currentAddress();
    widget.needsRefresh = true;
    recheckVisitor();
  }

  addEventListener("storage", ({ key, newValue }) => {
    if ((key ?? STORAGE_KEY) === STORAGE_KEY && (newValue ?? "") !== visitor.subject) recheckVisitor(true);
  });
  windowValue("navigation")?.addEventListener("currententrychange", onNavigation);
  for (const snapshot of ["turbo:before-cache", "htmx:beforeHistorySave"]) {
    addEventListener(snapshot, () => {
      for (const element of findContainers()) if (!widget.inUse) element.remove();
    });
  }
  addEventListener("pagehide", () => {
    page.threadWhenLeft = currentThread();
    visitor.isUncertain = true; // until the endpoint has confirmed who came back
    reconcile();
  });
  addEventListener("pageshow", ({ persisted }) => {
    if (!persisted) return;
    // A different thread means that another person used this browser in the meantime.
    widget.mustReset ||= widget.token !== undefined && page.threadWhenLeft !== currentThread();
    recheckVisitor(true);
  });
  addEventListener("visibilitychange", () => {
    // A log-in on a sibling host, or the end of the session, causes no event in this tab.
    if (!documentValue("hidden")) schedule(recheckVisitor, visitor.requestedAt + 5000 - Date.now());
  });
  addEventListener("online", () => visitor.failures && recheckVisitor());

  // ---- Start

  /** Reads the element that the browser is executing: the first one, or that of a later page in the same document. */
  function configure(script) {
    const next = ownProperties({ nonce: script.nonce });
    for (const name of ["endpoint", "loader", "load-on", "widget", "launcher", "labels", "subject", "identity"]) {
      next[name] = script.getAttribute(`data-${name}`);
    }
    script.removeAttribute("data-subject");
    script.removeAttribute("data-identity");
    if (config.loader && next.loader && next.loader !== config.loader) return;
    const { subject, identity } = (config = next);
    const loadOn = (config["load-on"] ||= "page");
    if (loadOn === "never") return withdraw();
    if (!loadRequested) holdWidget();
    if (subject === null || (script === currentScript && isOldPage())) recheckVisitor(true);
    else setVisitor({ subject: subject || null, identity: JSON.parse(identity || "null") });
    if (loadOn === "page") start();
    if (loadOn === "idle") {
      const whenIdle = () => (windowValue("requestIdleCallback") ?? setTimeout)(start);
      if (document.readyState === "complete") whenIdle();
      else addEventListener("load", whenIdle);
    }
    if (config.launcher && !loadRequested) addScript(config.launcher).dataset.labels = config.labels ?? "";
  }

  /** Whether the page was prerendered, prefetched or cached, so that its visitor may be a former one. */
  function isOldPage() {
    const [entry] = performance.getEntriesByType("navigation");
    if (documentValue("prerendering") || entry?.activationStart || entry?.deliveryType) return true;
    // For a page from a cache, Chromium and Firefox report a transfer size of 0, and WebKit a body size of 0.
    return entry?.transferSize * entry?.encodedBodySize === 0 && (config.endpoint || entry.type === "back_forward");
  }

  /** Keeps HubSpot from loading the widget before the visitor is known. */
  function holdWidget() {
    const settings = writeSettings();
    const { loaded, pending } = widgetStatus();
    if (loaded || pending || settings.loadImmediately === false) return;
    settings.loadImmediately = false;
    widget.heldSettings = settings;
  }

  function start() {
    if (documentValue("prerendering")) return document.addEventListener("prerenderingchange", start);
    if (loadRequested || config["load-on"] === "never") return;
    loadRequested = true;
    if (widget.token === undefined) widget.phase = "loading";
    if (visitor.subject === undefined) {
      visitor.isUncertain = Boolean(storedSubject());
      requestVisitor();
    }
    holdWidget();
    registerOnReady();
    addEventListener("load", registerOnReady);
    setTimeout(() => hubspot() || fail("loader"), 15000);
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
    const { loaded, pending } = widgetStatus();
    if (widget.mustReset && pending) location.reload();
    if (loaded) hubspot().widget.remove();
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
    update(change) {
      // Another element may be injected markup, however it looks. No markup can be the one that is being executed.
      if (change && change === documentValue("currentScript")) configure(change);
      else if (change === "page" || change === "never") {
        config["load-on"] = change;
        if (change === "page") start();
        else withdraw();
      } else recheckVisitor(true);
    },
    reset() {
      visitor.subject ||= "former";
      setVisitor({ subject: null });
    },
    status: () => ({ ...widgetStatus(), state: widget.phase, identified: widget.announced === "identified" }),
  });
  configure(currentScript);
})();
