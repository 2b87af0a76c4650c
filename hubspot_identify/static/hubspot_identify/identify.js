/**
 * Loads HubSpot's chat and identifies the visitor of the site in it.
 *
 * Three records describe the state: `visitor` (who uses the site, according to the site), `widget` (what HubSpot's
 * widget shows, and for whom) and `page` (its address, and whether it wants a chat). Every event changes a record.
 * Then, or when the site has responded, reconcile() takes at most one step, which nextStep() selects without a side
 * effect.
 *
 * The data attributes of this script's own element configure it: endpoint, loader, load-on, widget, subject, identity,
 * launcher, labels. window.hubspotIdentify controls it. It emits hubspot-identify:* on document. See docs/browser.rst.
 */
(() => {
  "use strict";

  if (typeof document === "undefined") return nextStep; // for its tests, which run without a browser

  // ---- Access to the page. Injected markup must not replace a property: <a id="hsVars"> defines window.hsVars, and
  // <img name="currentScript"> hides document.currentScript.

  /** @returns {any} */
  const windowValue = (name) => Object.getOwnPropertyDescriptor(window, name) && window[name];
  const documentValue = (name) => Reflect.get(Document.prototype, name, document);
  const hubspot = () => windowValue("HubSpotConversations"); // load() replaces the object
  const currentAddress = () => location.href.split("#")[0];
  const widgetStatus = () => plain(hubspot()?.widget?.status());

  /**
   * Copies an object without its prototype. Other code of the page may have a fault that lets injected JSON add
   * properties to Object.prototype, from which every object that is read here would inherit.
   *
   * @returns {any}
   */
  const plain = (object) => ({ __proto__: null, ...object });

  const currentScript = documentValue("currentScript");
  if (!currentScript?.matches("[data-endpoint], [data-loader], [data-load-on]")) {
    return console.warn("identify.js has no element");
  }
  if (windowValue("hubspotIdentify")) return windowValue("hubspotIdentify").update(currentScript);

  // ---- State

  /**
   * Who uses the site:
   *
   * subject         undefined: not known yet, "": anonymous, otherwise an opaque digest
   * source          the function that returns the visitor: the one passed to identifyWith(), or fetchIdentity()
   * email, token    "": anonymous, not identified yet, expired, or the last request failed
   * request         the request that is due or in progress: no step is taken, and responses to older ones are ignored
   * requestedAt     when the last request was sent
   * failures        consecutive failed requests
   * mayHaveChanged  something since the last response suggests another visitor: if the next request fails, the
   *                 subject is no longer trusted
   * isUncertain     there was a visitor, and whether the present one is the same is unknown: no chat is visible
   * overruled       another tab's stored subject, which this tab has replaced with its own once already
   */
  const visitor = plain({ failures: 0 });

  /**
   * HubSpot's widget:
   *
   * phase           "waiting", then "loading", then "ready", "hidden" (no chatflow for this address) or "failed"
   * token           the token of its last call; undefined: never started, "": anonymous, or rebuilt
   * isRefreshing    HubSpot has not responded to refresh() yet
   * elements        its elements when it became ready, and injected ones that look the same
   * isLost          the page has replaced its body, and the container was in it
   * inUse           the visitor has opened the chat, so it must not be refreshed
   * openWhenReady   open() was called, and the chat is not open yet
   * mustReset       it may belong to a former visitor or to the time before consent was withdrawn: no chat is visible
   * needsRefresh    the address has changed since HubSpot selected the chatflow
   * announced       the last of "identified" and "anonymous" that was emitted, or ""
   * wasStuck        its load took too long, so it was rebuilt; the late load may still display a chat
   * object          HubSpot's object in which the event handlers are registered
   * calledAt        when its script was added, or when it was last started, refreshed or reset
   * heldSettings    the page's settings object in which this script may remove loadImmediately: false
   */
  const widget = plain({ phase: "waiting", elements: [] });

  /**
   * The page:
   *
   * address          the last one that this script has noticed, without the fragment
   * wantsChat        from the moment that LOAD_ON names, or from load() or open(), until consent is withdrawn or the
   *                  page removes the widget
   * hasLoader        HubSpot's script has been added, or the page adds it
   * formerThread     HubSpot's cookie when the page went into the back/forward cache
   */
  const page = plain({ address: currentAddress() });

  /** The data attributes of the script element. Those of a later page in the same document replace them. */
  let config = plain();

  /** @type {any[]} How the browser loaded the page. */
  const [entry = {}] = performance.getEntriesByType("navigation");

  // ---- Helpers

  /** Calls a function later. Replaces the function's earlier timer, which is stored in its property `timer`. */
  function schedule(action, delay) {
    clearTimeout(action.timer);
    action.timer = setTimeout(action, delay);
  }

  function emit(name, detail) {
    const event = new CustomEvent("hubspot-identify:" + name, { __proto__: null, detail });
    documentValue("dispatchEvent").call(document, event);
  }

  function fail(reason) {
    if (widget.phase !== "failed") emit("failed", { reason });
    widget.phase = "failed";
  }

  /** The absolute URL, or "" unless it is secure or of this host. Ignores <base>, which may be injected. */
  function safeUrl(text) {
    const { href, protocol, hostname } = new URL(text, location.origin);
    return protocol === "https:" || hostname === location.hostname ? href : "";
  }

  function addScript(url, nonce) {
    const script = document.createElement("script");
    script.src = safeUrl(url);
    script.nonce = nonce; // of the element that names the URL: the page's own, or none
    return document.head.appendChild(script);
  }

  // ---- Cookies, storage and HubSpot's settings

  const cookies = () => documentValue("cookie");
  const currentThread = () => cookies().match(/messagesUtk=[^;]*/)?.[0];

  /**
   * Does what HubSpot's clear() does, which is not available before the widget has loaded, and for the parent domains
   * as well: the widget continues a conversation that was started on the parent domain's site.
   */
  function deleteChatCookies() {
    for (const [name] of cookies().matchAll(/(messagesUtk|hs-messages-[^=;]*)=/g)) {
      // Not for the top-level domain: browsers refuse such a cookie, and Firefox logs it.
      for (let domain = `.${location.hostname}`; domain; domain = domain.replace(/\.[^.]*(\.[^.]*$)?/, "")) {
        Reflect.set(Document.prototype, "cookie", name + "; max-age=0; path=/; domain=" + domain, document);
      }
    }
  }

  /** Reads the subject that this or another tab has stored, or changes it. Without storage, this tab's own. */
  function storedSubject(method = "getItem", ...values) {
    try {
      return localStorage[method]("hubspot-identify:subject", ...values) ?? "";
    } catch {
      return visitor.subject;
    }
  }

  function writeSettings() {
    const settings = (window.hsConversationsSettings = windowValue("hsConversationsSettings") ?? {});
    Object.assign(settings, { ...JSON.parse(config.widget || null), ...settings });
    delete settings.identificationEmail;
    delete settings.identificationToken;
    // HubSpot would read an inherited value. An own property hides it, even if it is "".
    if (visitor.token || settings.identificationToken) {
      settings.identificationEmail = visitor.email;
      settings.identificationToken = visitor.token;
    }
    return settings;
  }

  // ---- The visitor

  /**
   * Requests the visitor again, or forgets the visitor if no chat is wanted. Until the response arrives, the widget
   * stays as it is. A chat that is loading is displayed when it has loaded.
   */
  function recheckVisitor(mayHaveChanged) {
    visitor.mayHaveChanged ||= mayHaveChanged;
    if (!visitor.source && !mayHaveChanged) return reconcile();
    if (page.wantsChat) {
      visitor.request = {};
      return schedule(requestVisitor, 200);
    }
    visitor.subject = undefined; // start() sends the request
    setIdentity();
  }

  const fetchIdentity = ({ signal }) =>
    fetch(safeUrl(config.endpoint), {
      __proto__: null,
      headers: { "X-HubSpot-Identify": "1" },
      signal,
      mode: "same-origin",
      cache: "no-store",
      redirect: "manual",
    });

  /**
   * Requests the visitor from the source, which returns {subject, identity}, or a response that contains this as JSON.
   * The source receives an AbortSignal, as {signal}.
   */
  async function requestVisitor() {
    const request = (visitor.request = new AbortController());
    const abandon = () => {
      request.abort();
      // A source may ignore the signal.
      if (request === visitor.request) setVisitor();
    };
    const stored = storedSubject();
    visitor.requestedAt = Date.now();
    let answer;
    try {
      // While the status is 202, it is worth waiting for the token.
      for (const delay of [400, 1000, 2000, 0]) {
        schedule(abandon, 5000);
        const response = await visitor.source(request);
        if (request !== visitor.request) return;
        // A redirect (status 0) or another page in place of the response suggests that the session has ended.
        // setVisitor() undoes this if the response is valid.
        visitor.mayHaveChanged ||= response.status < 500;
        answer = response.json ? response.ok && (await response.json()) : response;
        if (response.status !== 202) break;
        // This hides the chat of a former visitor.
        visitor.isUncertain ||= visitor.subject && visitor.subject !== answer.subject;
        updateVisibility();
        steps.addLoader(); // HubSpot's script can be fetched in the meantime
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    } catch {
      return abandon();
    }
    if (request !== visitor.request) return;
    // Another tab has stored a different visitor since the request: the response may be older than the change.
    if (storedSubject() !== stored) recheckVisitor();
    else setVisitor(answer);
  }

  /** Takes {subject, identity} or {enabled: false}. With anything else the visitor is unknown. */
  function setVisitor(answer) {
    clearTimeout(requestVisitor.timer);
    visitor.request = undefined;
    const { subject, identity, enabled } = plain(answer);
    if (enabled === false) return withdraw();
    setIdentity(subject && identity); // before a reset, during which HubSpot reads it
    const stored = storedSubject();
    const former = visitor.subject || stored;
    if (subject === undefined) {
      if (!visitor.failures++) emit("failed", { reason: "endpoint" });
      visitor.isUncertain = former && (visitor.mayHaveChanged || stored !== visitor.subject);
      // After 2 s, then after twice as long each time, at most after 5 min.
      if (former) schedule(requestVisitor, Math.min(2 ** visitor.failures, 300) * 1000);
      return reconcile();
    }
    const present = (subject ?? "") + "";
    // Two tabs of one session can have different subjects (two accounts). Each overwrites the other's subject only once.
    if (stored !== present && (present !== visitor.subject || stored !== visitor.overruled)) {
      visitor.overruled = present === visitor.subject && stored;
      storedSubject(present ? "setItem" : "removeItem", present);
    }
    visitor.subject = present;
    visitor.mayHaveChanged = visitor.isUncertain = visitor.failures = 0;
    if (former && former !== present) {
      widget.mustReset = true;
      deleteChatCookies();
      emit("reset");
    }
    reconcile();
  }

  function setIdentity(identity) {
    const { email = "", token = "", expires_in } = plain(identity);
    Object.assign(visitor, { email, token });
    writeSettings();
    if (token) schedule(onExpiry, Math.min(expires_in * 1000 || 4e7, 4e7));
  }

  function onExpiry() {
    setIdentity();
    recheckVisitor();
  }

  // ---- The widget

  /** Takes the next step, if there is one. */
  function reconcile() {
    updateVisibility();
    const status = hubspot()?.widget && widgetStatus();
    try {
      if (status) observeWidget(status);
      steps[nextStep({ visitor, widget, page, status }, Date.now())]?.();
    } catch {
      // HubSpot's functions throw where the page has removed HubSpot's script elements.
      if (widget.mustReset) location.reload();
      else fail("widget");
    }
  }

  /** Records what HubSpot or the page did to the widget since the last call. */
  function observeWidget({ loaded, pending }) {
    // A start or a reset has replaced HubSpot's object.
    if (widget.object !== hubspot()) {
      widget.object = hubspot();
      for (const handler of handlers) {
        widget.object.off(...handler);
        widget.object.on(...handler);
      }
    }
    if (loaded || pending) widget.token ??= ""; // the page has started it
    if (pending || widget.isRefreshing) return;
    if (loaded && config.loadOn === "never") hubspot().widget.remove();
    else if (loaded && widget.phase !== "ready") {
      widget.phase = "ready";
      widget.isLost = false;
      widget.elements = findChat();
      emit("ready");
    } else if (!loaded && widget.phase === "ready") {
      // The page has removed the widget, and wants it again only if open() has been called.
      widget.phase = "waiting";
      page.wantsChat = widget.openWhenReady;
    }
  }

  /**
   * Returns the name of the next step, or nothing. Has no side effects.
   *
   * @param {*} state {visitor, widget, page, status}; status is HubSpot's, and undefined before its script has run
   * @param {number} now in milliseconds
   */
  function nextStep({ visitor, widget, page, status }, now) {
    // While a request is in progress, the widget is not loaded, and a loaded chat stays as it is.
    if (!page.wantsChat || visitor.request || visitor.isUncertain) return;
    const isStuck = now >= widget.calledAt + 15000;
    if (!page.hasLoader) return "addLoader";
    if (!status) return isStuck ? "giveUp" : "wait";
    const isStarted = widget.token !== undefined;
    const isLoading = status.pending || (isStarted && !status.loaded && widget.phase === "loading");
    if (isLoading || (widget.isRefreshing && (widget.mustReset || !isStuck))) {
      // Nothing cancels HubSpot's request: its response would replace the next visitor's chat by the former one's.
      if (!isStuck || (widget.inUse && !widget.mustReset)) return "wait";
      if (widget.mustReset) return "reloadPage";
      return widget.wasStuck ? "giveUp" : "rebuild";
    }
    if (!isStarted) return "load";
    if (widget.mustReset) return widget.wasStuck ? "reloadPage" : "reset";
    let step;
    if (status.loaded ? widget.isLost : widget.phase === "waiting") step = "rebuild";
    else if (!widget.inUse && (hasNewToken(visitor, widget) || widget.needsRefresh)) step = "refresh";
    else return "announce";
    // HubSpot delays a call that follows another one within a second.
    return now < widget.calledAt + 1200 ? "wait" : step;
  }

  function hasNewToken(visitor, widget) {
    return visitor.token && (visitor.token !== widget.token || widget.isRefreshing); // or HubSpot has not responded
  }

  const steps = {
    wait: () => schedule(reconcile, 200),
    reloadPage: () => location.reload(),
    /** HubSpot's script may still arrive later, for example on a slow connection. */
    giveUp() {
      fail(hubspot() ? "widget" : "loader");
      schedule(reconcile, 5000);
    },

    addLoader() {
      if (page.hasLoader) return;
      page.hasLoader = true;
      steps.wait();
      widget.calledAt = Date.now();
      // The page adds HubSpot's script itself if data-loader is missing or the element already exists.
      if (!config.loader || document.querySelector('script#hs-script-loader, script[src*=".hs-scripts.com/"]')) return;
      const script = addScript(config.loader, config.nonce);
      script.id = "hs-script-loader"; // without this id the loader would add itself again
      script.onerror = steps.giveUp;
    },

    load() {
      widget.mustReset = false;
      const settings = writeSettings();
      if (settings.loadImmediately === false && settings !== widget.heldSettings) return; // the page holds the widget
      beginCall(visitor.token);
      hubspot().widget.load();
      delete settings.loadImmediately;
    },

    refresh() {
      const options = plain(hasNewToken(visitor, widget) && { setIdentification: true });
      beginCall(visitor.token || widget.token);
      widget.isRefreshing = true;
      hubspot().widget.refresh(options);
    },

    /** A rebuilt widget is anonymous. The next refresh() identifies it. */
    rebuild() {
      widget.wasStuck ||= widget.phase === "loading";
      beginLoading("");
      hubspot().widget.remove();
      hubspot().widget.load();
    },

    /** Removes the former visitor's thread and identity. */
    reset() {
      widget.announced = "";
      deleteChatCookies();
      beginLoading(visitor.token);
      hubspot().clear({ resetWidget: true });
      widget.mustReset = false;
      if (writeSettings().loadImmediately === false) hubspot().widget.load();
    },

    announce() {
      if (!widgetStatus().loaded) return;
      const kind = widget.token ? "identified" : "anonymous";
      if (widget.announced !== kind) emit((widget.announced = kind));
      if (!widget.openWhenReady) return;
      widget.openWhenReady = false;
      setInUse(true);
      hubspot().widget.open();
    },
  };

  function beginCall(token) {
    widget.token = token;
    widget.needsRefresh = false;
    widget.calledAt = Date.now();
    // With an injected element of this id, the widget would send its requests, token included, to another address. An
    // own property hides the element.
    window.hsVars = windowValue("hsVars");
    steps.wait();
  }

  function beginLoading(token) {
    beginCall(token);
    clearTimeout(checkUse.timer);
    widget.phase = "loading";
    widget.elements = [];
    widget.inUse = widget.isRefreshing = widget.isLost = false;
  }

  // The only sign that HubSpot has responded to refresh(): no event and no property of the widget shows it.
  new PerformanceObserver((list) => {
    if (!widget.isRefreshing || !list.getEntries().some(({ name }) => name.includes("/livechat-public/"))) return;
    setTimeout(() => {
      widget.isRefreshing = false;
      if (widget.phase === "ready" && !widgetStatus().loaded) widget.phase = "hidden"; // no chatflow for this address
      reconcile();
    }, 300); // HubSpot handles the response first
  }).observe({ __proto__: null, type: "resource" });

  const handlers = (
    "conversationStarted conversationClosed userSelectedThread unreadConversationCountChanged contactAssociated " +
    "userInteractedWithWidget widgetLoaded widgetHidden widgetClosed quickReplyButtonClick"
  )
    .split(" ")
    .map((name) => [name, (detail) => onWidgetEvent(name, detail)]);

  function onWidgetEvent(name, detail) {
    emit(name, detail);
    if (name === "userInteractedWithWidget" && !widget.inUse) {
      setInUse(true);
      schedule(checkUse, 1000);
    }
    if (name === "widgetClosed") setInUse(false);
    if (name === "widgetHidden") {
      widget.phase = "hidden";
      widget.openWhenReady = false;
      setInUse(false);
    }
    reconcile();
  }

  /** A visitor who has only closed the welcome message does not use the chat. An inline chat is always open. */
  function checkUse() {
    setInUse(writeSettings().inlineEmbedSelector || cookies().includes("hs-messages-is-open=true"));
    reconcile();
  }

  /** Keeps htmx from storing the page while the chat is in use. */
  function setInUse(inUse) {
    widget.inUse = inUse;
    for (const element of widget.elements) element.dataset.hxHistory = !inUse;
  }

  // ---- The container, in pages whose body is replaced (htmx, Turbo)

  new MutationObserver(() => {
    updateVisibility();
    if (!widget.elements[0] || widget.elements.some(({ isConnected }) => isConnected)) return;
    widget.elements = []; // one request for each loss, however often the page changes
    widget.isLost = true;
    recheckVisitor(true);
  }).observe(document, { __proto__: null, childList: true, subtree: true });

  /**
   * HubSpot's container and the iframe in it, and what looks like them. The second ID is for sites that have set
   * inlineEmbedSelector. Browsers find elements by one ID without searching the document, and this runs at every change
   * of the page.
   */
  function findChat() {
    return ["messages-iframe-container", "conversations-inline-parent", "conversations-iframe"].flatMap((id) => [
      ...documentValue("querySelectorAll").call(document, `#hubspot-${id}`),
    ]);
  }

  function removeChat() {
    for (const element of findChat()) element.remove();
  }

  function updateVisibility() {
    const isHidden = visitor.isUncertain || widget.mustReset;
    const elements = findChat();
    // HubSpot may replace the style of its container, but the iframe in it has its own.
    for (const element of elements) element.style.setProperty("visibility", isHidden ? "hidden" : "", "important");
    // On phones, the page cannot be scrolled while the chat is open. HubSpot does not undo this when it is removed.
    if (isHidden || !elements[0]) {
      document.documentElement.classList.remove("hs-messages-mobile", "hs-messages-widget-open");
    }
  }

  // ---- The page: navigation, snapshots, the back/forward cache

  function onNavigation() {
    if (page.address === currentAddress()) return;
    page.address = currentAddress();
    widget.needsRefresh = true;
    recheckVisitor();
  }

  addEventListener("storage", () => {
    if (storedSubject() !== (visitor.subject ?? "")) recheckVisitor(true);
  });
  addEventListener("popstate", onNavigation);
  window.navigation?.addEventListener("currententrychange", onNavigation);
  // Turbo and htmx must not store the chat: a restored iframe would be requested from HubSpot again. Turbo replaces the
  // body anyway. htmx may keep a chat in use, and setInUse() forbids it to store such a page.
  addEventListener("turbo:before-cache", removeChat);
  addEventListener("htmx:beforeHistorySave", () => widget.inUse || removeChat());
  addEventListener("pagehide", () => {
    page.formerThread = currentThread();
    visitor.isUncertain = true; // until the endpoint has confirmed who came back
    updateVisibility();
  });
  addEventListener("pageshow", ({ persisted }) => {
    if (!persisted) return;
    // A different thread may be that of another person, who has used this browser in the meantime.
    widget.mustReset ||= page.formerThread !== currentThread();
    recheckVisitor(true);
  });
  addEventListener("visibilitychange", () => {
    // A log-in on a sibling host, or a session that expires, causes no event in this tab.
    if (!documentValue("hidden")) schedule(recheckVisitor, visitor.requestedAt + 5000 - Date.now());
  });
  addEventListener("online", () => visitor.failures && recheckVisitor());

  // ---- Start

  /** Reads the element that the browser is executing: the first one, or that of a later page in the same document. */
  function configure(script) {
    const next = plain({ loadOn: "page", nonce: script.nonce });
    // A spread would read properties that injected JSON has added to Object.prototype.
    for (const name of Reflect.ownKeys(script.dataset)) next[name] = script.dataset[name];
    delete script.dataset.subject;
    delete script.dataset.identity;
    // HubSpot's script cannot switch to another account.
    if (config.loader && next.loader && next.loader !== config.loader) return;
    const { subject, identity, launcher, labels = "", loadOn } = (config = next);
    visitor.source ??= config.endpoint && fetchIdentity;
    if (loadOn === "never") return withdraw();
    if (!page.wantsChat) holdWidget();
    // A prerendered, prefetched or cached page may contain a former visitor. transferSize is 300 plus the size of the
    // body for a page from the network, and 0 (300 in WebKit) from a cache.
    const isOld =
      documentValue("prerendering") || entry.activationStart || entry.deliveryType ||
      (!(entry.transferSize > 300) && (visitor.source || entry.type === "back_forward"));
    if (subject === undefined || (script === currentScript && isOld)) recheckVisitor(true);
    else setVisitor({ subject, identity: JSON.parse(identity || null) });
    if (loadOn === "page") start();
    if (loadOn === "idle") {
      const whenIdle = windowValue("requestIdleCallback") ?? setTimeout;
      if (document.readyState === "complete") whenIdle(start);
      else addEventListener("load", () => whenIdle(start));
    }
    if (launcher && !page.wantsChat) addScript(launcher, script.nonce).dataset.labels = labels;
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
    if (page.wantsChat || config.loadOn === "never") return;
    page.wantsChat = true;
    if (widget.token === undefined) widget.phase = "loading";
    if (visitor.subject === undefined) {
      visitor.isUncertain = storedSubject();
      requestVisitor();
    }
    reconcile();
  }

  /** Without consent: removes the chat, and what earlier pages stored. */
  function withdraw() {
    const { loaded, pending } = widgetStatus();
    // Nothing cancels what HubSpot loads, so the page is reloaded, but only once: its own script may call
    // update("never") at each start.
    if ((pending || widget.isRefreshing || (page.hasLoader && !hubspot())) && entry.type !== "reload") {
      location.reload();
    }
    page.wantsChat = false;
    config.loadOn = "never";
    setVisitor({ subject: null });
    visitor.subject = undefined;
    deleteChatCookies();
    widget.mustReset = true; // if the chat is wanted again
    widget.phase = "waiting";
    widget.announced = "";
    emit("failed", { reason: "consent" });
    if (loaded) hubspot().widget.remove();
  }

  const api = (window.hubspotIdentify = {
    load() {
      reconcile(); // notices that the page has removed the widget
      widget.heldSettings = writeSettings(); // even if the page holds it
      start();
      reconcile();
    },
    open() {
      widget.openWhenReady = true;
      widget.needsRefresh ||= widget.phase === "hidden";
      api.load();
    },
    close() {
      widget.openWhenReady = false;
      if (widget.phase === "ready") hubspot().widget.close();
    },
    refresh() {
      page.address = currentAddress(); // older browsers do not report every change of it
      widget.needsRefresh = true;
      schedule(reconcile, 0); // several calls in one task make one refresh
    },
    update(change) {
      // An element is accepted only while the browser executes it, which injected markup cannot imitate.
      if (change && change === documentValue("currentScript")) return configure(change);
      if (change === "never") return withdraw();
      if (change !== "page") return recheckVisitor(true);
      config.loadOn = change;
      start();
    },
    identifyWith(source) {
      visitor.source = source;
      recheckVisitor(true);
    },
    reset() {
      visitor.subject ||= true; // so that there is a former visitor
      setVisitor({ subject: null });
    },
    status: () => ({ ...widgetStatus(), state: widget.phase, identified: widget.announced === "identified" }),
  });
  configure(currentScript);
})();
