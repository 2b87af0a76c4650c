/**
 * HubSpot's chat, told who the site's visitor is.
 *
 * Configured by data attributes of its own script element alone: endpoint, loader, load-on, widget, subject, identity,
 * launcher, labels. Steered by window.hubspotIdentify; emits hubspot-identify:* on document. See docs/browser.rst.
 */
(() => {
  "use strict";

  const REMEMBERED = "hubspot-identify:subject";
  const CONTAINER = "hubspot-messages-iframe-container";
  const COOKIES =
    "messagesUtk hs-messages-is-open hs-messages-hide-welcome-message hs-messages-widget-position_left " +
    "hs-messages-widget-position_right hs-messages-widget-size";
  const EVENTS =
    "conversationStarted conversationClosed userSelectedThread unreadConversationCountChanged contactAssociated " +
    "userInteractedWithWidget widgetLoaded widgetHidden widgetClosed quickReplyButtonClick";
  const ASK_AGAIN = [400, 1000, 2000]; // milliseconds
  const THROTTLE = 1200; // HubSpot drops what comes within a second
  const WEDGED = 15000;

  // Planted markup must not count: window[id], <img name="currentScript">.
  /** @returns {any} */
  const own = (name) => (Object.hasOwn(window, name) ? window[name] : undefined);
  const reach = (name) => Reflect.get(Document.prototype, name, document);
  const hubspot = () => own("HubSpotConversations"); // load() replaces it
  const status = () => hubspot()?.widget?.status() ?? {};
  const me = reach("currentScript");
  if (!(me instanceof HTMLScriptElement)) return;
  if (own("hubspotIdentify")) return own("hubspotIdentify").update(me);

  let config = me.dataset;
  let subject; // "" is nobody
  let identity = null;
  let delivered; // the widget's token; "": it has none, undefined: not started
  let chat = null;
  let state = "waiting"; // loading, ready, hidden, failed
  let told = "";
  let wanted = false;
  let forced = false; // though the page holds the chat back
  let held; // our settings that do
  let asking = false;
  let question = 0;
  let stale = false; // the widget is a former visitor's
  let moved = false; // since it looked
  let opening = false;
  let used = false;
  let revived = false;
  let calledAt = 0;
  let pendingSince = 0;
  let veiled = false; // since the page was left
  let left; // the thread of then
  let address = location.pathname + location.search;
  const timers = new Map();
  const cancel = (action) => clearTimeout(timers.get(action));

  function schedule(action, delay) {
    cancel(action);
    timers.set(action, setTimeout(action, delay));
  }

  function emit(name, detail) {
    document.dispatchEvent(new CustomEvent(`hubspot-identify:${name}`, { detail }));
  }

  function fail(reason) {
    state = "failed";
    emit("failed", { reason });
  }

  /** Relative to the origin: a <base> may be planted. */
  function trusted(text) {
    const { href, origin } = new URL(text, location.origin);
    const safe = /^https:|^http:\/\/(localhost|127\.0\.0\.1|\[::1\])(:|$)/.test(origin);
    return safe || origin === location.origin ? href : "";
  }

  function remember(now) {
    try {
      const before = localStorage.getItem(REMEMBERED);
      if (now) localStorage.setItem(REMEMBERED, now);
      else localStorage.removeItem(REMEMBERED);
      addEventListener("storage", compare);
      return before;
    } catch {
      return null;
    }
  }

  function compare({ key, newValue }) {
    if ((key ?? REMEMBERED) === REMEMBERED && (newValue ?? "") !== subject) doubt();
  }

  /** HubSpot's clear() needs a widget. */
  function wipe() {
    const domain = location.hostname.replace(/^www\./, "");
    for (const name of COOKIES.split(" ")) {
      Reflect.set(Document.prototype, "cookie", `${name}=; max-age=0; path=/; domain=.${domain}`, document);
    }
  }

  const thread = () => /messagesUtk=[^;]*/.exec(reach("cookie"))?.[0];

  function apply() {
    let settings = own("hsConversationsSettings");
    if (!settings) window.hsConversationsSettings = settings = {};
    for (const [key, value] of Object.entries(JSON.parse(config.widget || "{}"))) settings[key] ??= value;
    delete settings.identificationEmail;
    delete settings.identificationToken;
    if (identity) {
      settings.identificationEmail = identity.email;
      settings.identificationToken = identity.token;
    }
    return settings;
  }

  /** Nothing is done before the answer is here. */
  function doubt() {
    if (wanted) {
      question++;
      asking = true;
      return schedule(ask, 200);
    }
    subject = undefined; // start() asks
    identity = null;
    apply();
  }

  async function ask() {
    const mine = ++question;
    asking = true;
    let answer;
    try {
      for (const delay of config.endpoint ? [...ASK_AGAIN, 0] : []) {
        const response = await fetch(trusted(config.endpoint), {
          headers: { "X-HubSpot-Identify": "1" },
          mode: "same-origin",
          cache: "no-store",
          redirect: "error",
          signal: AbortSignal.timeout(5000),
        });
        answer = response.ok ? await response.json() : null;
        if (response.status !== 202 || !delay || mine !== question) break;
        await new Promise((done) => setTimeout(done, delay));
      }
    } catch {
      answer = null;
    }
    if (mine === question) learn(answer);
  }

  /** Any other answer than {subject, identity} clears nothing. */
  function learn(answer) {
    cancel(ask);
    question++;
    asking = false;
    const { subject: now, identity: found } = answer ?? {};
    identity = now ? found : null;
    apply(); // first, since HubSpot reads it when cleared
    if (identity) {
      identity.end = Date.now() + identity.expires_in * 1000;
      schedule(expire, identity.expires_in * 1000);
    }
    if (now !== undefined) {
      const before = now === subject ? now : remember(now);
      const former = subject || before;
      subject = now ?? "";
      if (former && former !== now) {
        stale = true;
        wipe();
        emit("reset");
      } else veil(false);
    } else {
      stale ||= !!delivered && (veiled || !config.endpoint);
      veil(false);
      emit("failed", { reason: "endpoint" });
    }
    settle();
  }

  function expire() {
    if (!identity || Date.now() < identity.end) return;
    identity = null;
    apply();
    if (config.endpoint) doubt();
  }

  function settle() {
    cancel(settle);
    if (asking || !wanted || !hubspot()?.widget) return;
    try {
      step(status());
    } catch {
      fail("widget");
    }
  }

  function step({ loaded, pending }) {
    const now = Date.now();
    if (loaded || pending) delivered ??= "";
    if (pending || (delivered !== undefined && !loaded && state === "loading")) {
      // Whatever is done, the visitor it loads for will appear.
      pendingSince ||= now;
      if (now < pendingSince + WEDGED || (used && !stale)) return schedule(settle, 1000);
      if (stale) return location.reload();
      if (revived) return state === "failed" || fail("widget");
      revived = true;
      return rebuild();
    }
    pendingSince = 0;
    if (loaded && state === "loading") arrive();
    if (stale) {
      stale = false;
      if (delivered !== undefined) return renew();
    }
    const renewed = identity && identity.token !== delivered;
    let next;
    if (delivered === undefined) next = load;
    else if (!loaded && state !== "hidden") return; // removed by the page
    else if (loaded && chat?.isConnected === false) next = rebuild;
    else if (!used && (renewed || moved)) next = refresh;
    if (next && now < calledAt + THROTTLE) return schedule(settle, calledAt + THROTTLE - now);
    if (next) return next();
    const kind = delivered ? "identified" : "anonymous";
    if (state === "ready" && told !== kind) emit((told = kind));
  }

  function begin(token) {
    delivered = token;
    moved = false;
    calledAt = Date.now();
    pendingSince = 0;
    // Planted with this id, markup would divert the widget's calls.
    if (!own("hsVars")) Object.defineProperty(window, "hsVars", { writable: true, configurable: true });
    schedule(settle, 1000);
  }

  function restart(token) {
    state = "loading";
    chat = null;
    veiled = used = false;
    begin(token);
  }

  function load() {
    const settings = apply();
    if (settings.loadImmediately === false && settings !== held && !forced) return;
    begin(identity?.token ?? "");
    hubspot().widget.load();
    if (settings === held) delete settings.loadImmediately;
  }

  function refresh() {
    const setIdentification = Boolean(identity) && identity.token !== delivered;
    begin(identity?.token ?? delivered);
    hubspot().widget.refresh(setIdentification ? { setIdentification } : {});
  }

  /** The new chat is nobody's at first. */
  function rebuild() {
    restart("");
    hubspot().widget.remove();
    hubspot().widget.load();
  }

  function renew() {
    wipe();
    told = "";
    restart(identity?.token ?? "");
    hubspot().clear({ resetWidget: true });
    if (apply().loadImmediately === false) hubspot().widget.load();
  }

  const handlers = EVENTS.split(" ").map((name) => [name, (detail) => hear(name, detail)]);

  /** Called several times. */
  function onReady() {
    for (const [name, handler] of handlers) {
      hubspot().off(name, handler);
      hubspot().on(name, handler);
    }
    settle();
  }

  function hook() {
    const list = own("hsConversationsOnReady");
    if (!Array.isArray(list)) window.hsConversationsOnReady = [onReady];
    else if (!list.includes(onReady)) list.push(onReady);
    if (hubspot()?.on) onReady();
  }

  function hear(name, detail) {
    emit(name, detail);
    if (name === "userInteractedWithWidget") use(true);
    if (name === "widgetClosed") use(false);
    if (name === "widgetHidden") {
      state = "hidden";
      opening = used = false;
    }
    if (name === "widgetLoaded") arrive();
    settle();
  }

  function arrive() {
    state = "ready";
    revived = false;
    claim(document.querySelector(`#${CONTAINER}:has(iframe)`)); // a planted one has none
    emit("ready");
    if (opening && !stale) api.open();
  }

  /** htmx must not store a chat in use. */
  function use(now) {
    used = now;
    chat?.setAttribute("data-hx-history", String(!now));
  }

  const observer = new MutationObserver(() => {
    // Dead copies come with an old body.
    for (const each of document.querySelectorAll(`#${CONTAINER}[data-hubspot-identify]`)) {
      if (each !== chat) each.remove();
    }
    if (chat?.isConnected === false) doubt();
  });

  function claim(container) {
    chat = container;
    if (!chat) return;
    chat.setAttribute("data-hubspot-identify", "");
    veil(veiled);
    observer.disconnect();
    observer.observe(document.documentElement, { childList: true });
    observer.observe(chat.parentNode, { childList: true });
  }

  function veil(now) {
    veiled = now;
    if (chat) chat.style.visibility = now ? "hidden" : "";
  }

  function navigated() {
    if (address === location.pathname + location.search) return;
    address = location.pathname + location.search;
    moved = true;
    if (config.endpoint) doubt();
    else settle();
  }

  own("navigation")?.addEventListener("currententrychange", navigated);
  for (const snapshot of ["turbo:before-cache", "htmx:beforeHistorySave"]) {
    addEventListener(snapshot, () => used || chat?.remove());
  }
  addEventListener("pagehide", () => {
    left = thread();
    veil(true);
  });
  addEventListener("pageshow", ({ persisted }) => {
    if (!persisted) return;
    stale ||= delivered !== undefined && left !== thread(); // somebody else was here
    doubt();
  });
  addEventListener("visibilitychange", expire);

  function adopt(script) {
    const { subject: who, identity: given, ...rest } = script.dataset;
    script.removeAttribute("data-subject");
    script.removeAttribute("data-identity");
    if (config.loader && rest.loader && rest.loader !== config.loader) return;
    const first = config === me.dataset;
    config = { ...rest, loadOn: rest.loadOn || "page" };
    if (config.loadOn === "never") return withdraw();
    if (!wanted) hold();
    // A page out of a cache knows the visitor of then.
    const [page] = performance.getEntriesByType("navigation");
    const old = first && page && !page.transferSize && (config.endpoint || page.type === "back_forward");
    if (old || who === undefined) doubt();
    else learn({ subject: who || null, identity: JSON.parse(given || "null") });
    if (config.loadOn === "page") start();
    if (config.loadOn === "idle") {
      const whenIdle = () => (own("requestIdleCallback") ?? setTimeout)(start);
      if (document.readyState === "complete") whenIdle();
      else addEventListener("load", whenIdle);
    }
    if (config.launcher && !wanted) inject(config.launcher).dataset.labels = config.labels ?? "";
  }

  function hold() {
    const settings = apply();
    if (status().loaded || status().pending || settings.loadImmediately === false) return;
    settings.loadImmediately = false;
    held = settings;
  }

  function start() {
    if (wanted || config.loadOn === "never") return;
    wanted = true;
    if (delivered === undefined) state = "loading";
    if (subject === undefined) ask();
    hold();
    hook();
    addEventListener("load", hook);
    setTimeout(() => hubspot() || state === "failed" || fail("loader"), WEDGED);
    if (!config.loader || document.querySelector('script#hs-script-loader, script[src*=".hs-scripts.com/"]')) return;
    const script = inject(config.loader);
    script.id = "hs-script-loader"; // else it adds another
    script.onerror = () => fail("loader");
  }

  function inject(url) {
    const script = document.createElement("script");
    script.src = trusted(url);
    script.nonce = me.nonce;
    document.head.append(script);
    return script;
  }

  function withdraw() {
    wanted = false;
    learn({ subject: null });
    subject = undefined;
    wipe();
    stale = delivered !== undefined;
    state = "waiting";
    emit("failed", { reason: "consent" });
    if (stale && status().pending) location.reload();
    if (status().loaded) hubspot().widget.remove();
  }

  const api = (window.hubspotIdentify = {
    load() {
      forced = true;
      start();
      settle();
    },
    open() {
      opening = state !== "ready";
      if (opening) return api.load();
      use(true);
      hubspot().widget.open();
    },
    close() {
      opening = false;
      if (state === "ready") hubspot().widget.close();
    },
    refresh() {
      moved = true;
      schedule(settle, 0); // several at once are one
    },
    update(script) {
      if (script instanceof HTMLScriptElement) adopt(script);
      else doubt();
    },
    reset() {
      subject ||= "somebody";
      learn({ subject: null });
    },
    status: () => ({ ...status(), state, identified: told === "identified" }),
  });
  adopt(me);
})();
