/* The widget of one visitor, from its load() until a reset. */
import * as cookies from "./cookies.js";
import { announce } from "./events.js";
import { Frame } from "./frame.js";
import { log, record, warn } from "./log.js";
import { readIdentity } from "./settings.js";
import { throttled } from "./throttle.js";

const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class Widget {
  emitter;
  isLoaded = false;
  isPending = false;
  #embed;
  #identity = readIdentity(); // once; only setIdentification reads it later, and only if there was none
  #sendsIdentity = true; // until remove()
  #thread = "";
  #opensWhenDrawn = cookies.wasOpen();

  /** @param embed the Embed that it belongs to, whose widget is another one after a reset */
  constructor(embed) {
    this.#embed = embed;
    this.emitter = embed.emitter;
  }

  // ---- The calls that a page can make

  /** Returns HubSpot's object for the page. After a reset, which replaces it, its functions have no effect. */
  publicObject(load) {
    const own = (name, action) => (options) => {
      if (this === this.#embed.widget) action(options);
      else warn(`${name} of a replaced object has no effect`);
    };
    const { on, off } = this.emitter;
    return {
      on,
      off,
      clear: own("clear", (options) => this.#clear(options)),
      resetAndReloadWidget: own("resetAndReloadWidget", () => this.#resetAndReload()),
      debug: () => log,
      widget: {
        load,
        status: () => ({ loaded: this.isLoaded, pending: this.isPending }),
        remove: own("widget.remove", () => this.#remove()),
        refresh: own("widget.refresh", throttled("refresh", (options) => this.#refresh(options))),
        open: own("widget.open", () => this.#setOpen(true)),
        close: own("widget.close", () => this.#setOpen(false)),
      },
    };
  }

  load(options) {
    if (this.isLoaded || this.isPending) {
      record("load ignored", { loaded: this.isLoaded, pending: this.isPending });
      return;
    }
    record("load");
    if (options?.widgetOpen) this.#opensWhenDrawn = true;
    this.#loadChat();
  }

  #clear(options) {
    record("clear");
    cookies.forgetAll();
    if (options?.resetWidget) this.#embed.reset();
  }

  #resetAndReload() {
    cookies.forgetThread();
    this.#embed.reset();
  }

  #remove() {
    record("remove", { pending: this.isPending });
    this.#embed.removeFrame();
    this.isLoaded = this.isPending = this.#sendsIdentity = false;
  }

  #setOpen(isOpen) {
    if (this.isPending) this.#opensWhenDrawn = isOpen;
    else this.#embed.frame?.send({ type: isOpen ? "open" : "close" });
  }

  /** Selects the chatflow of the current address. The widget is not pending meanwhile, unless it has to load. */
  async #refresh(options) {
    const identifies = Boolean(options?.setIdentification);
    if (this.isPending) return record("refresh ignored while pending");
    record("refresh", { setIdentification: identifies });
    if (identifies) {
      this.#identity ??= readIdentity();
      this.#sendsIdentity = true;
    }
    if (!this.isLoaded) return this.#loadChat({ identifies });
    const hasChat = await this.#requestChatflow({ identifies });
    if (hasChat === false) {
      this.#embed.removeFrame();
      this.isLoaded = false; // without widgetHidden
    }
    if (!hasChat) return;
    // This may be the iframe of another visitor: the widget may have been reset since the request.
    this.#embed.frame?.send({ type: "session", ...this.session });
    if (options?.openToNewThread) this.#embed.frame?.send({ type: "open" });
  }

  // ---- Loading

  /** Nothing cancels a load: after a remove() or a reset, the chat still appears. */
  async #loadChat({ identifies = false } = {}) {
    this.isPending = true; // permanently, if the request fails
    const hasChat = await this.#requestChatflow({ identifies });
    if (hasChat === undefined) return;
    if (hasChat) await wait(this.#embed.options.delay);
    this.isPending = false;
    if (hasChat) this.#display();
    else this.#hide();
  }

  /** Returns whether HubSpot has a chat for this address and visitor, or undefined if the request fails. */
  async #requestChatflow({ identifies }) {
    const { options } = this.#embed;
    const email = this.#identity?.email ?? null;
    this.#thread = cookies.renewThread({ isIdentified: Boolean(email) });
    record("call", { url: location.href, email });
    try {
      await wait(options.latency);
      if (options.api === "fail") throw new Error("simulated failure");
      const response = await fetch(this.#requestUrl(identifies), { credentials: "omit" });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const { known } = await response.json();
      // HubSpot has rejected the token, so the visitor is anonymous and gets a key.
      if (!known) this.#thread = cookies.renewThread({ isIdentified: false });
      record("call answered", { known, email });
      return options.chat !== "none";
    } catch (error) {
      record("call failed", { error: String(error) });
    }
  }

  /** If window.hsVars exists, the request goes to the page's base URL, which <base> can change. */
  #requestUrl(identifies) {
    const url = window.hsVars
      ? new URL("/livechat-public/", document.baseURI)
      : new URL(`../livechat-public/${this.#embed.portal}/`, this.#embed.url);
    let query = `?url=${encodeURIComponent(location.href)}`;
    if (this.#thread) query += `&messagesUtk=${this.#thread}`;
    if (identifies) query += "&setIdentification=true";
    // The widget encodes the e-mail address, but not the token.
    if (this.#identity) {
      const { email, token } = this.#identity;
      query += `&email=${encodeURIComponent(email)}&identificationToken=${token}`;
    }
    return url.href + query;
  }

  #hide() {
    this.#embed.removeFrame();
    this.isLoaded = false;
    this.emitter.emit("widgetHidden", { reason: "NO_CHATFLOW", description: "no chatflow for this page" });
    announce(false);
  }

  #display() {
    // The iframe of a widget that was reset in the meantime still appears, and replaces any other.
    const isLate = this !== this.#embed.widget;
    if (isLate || !this.#embed.frame?.isInPage) this.#draw(isLate);
    this.isLoaded = true;
    setTimeout(() => {
      announce(true);
      this.emitter.emit("widgetLoaded");
    });
  }

  #draw(isLate) {
    const { portal, options, url } = this.#embed;
    const { pathname } = new URL(`../chat/${portal}/`, url);
    this.#embed.removeFrame();
    this.#embed.frame = new Frame(this, new URL(pathname, options.frame).href, this.#opensWhenDrawn);
    this.#opensWhenDrawn = false;
    record("drawn", { email: this.#identity?.email ?? null, late: isLate });
  }

  // ---- For the iframe

  /** The visitor of the iframe: {utk, page}, and {email, token} of an identified visitor. */
  get session() {
    return { utk: this.#thread, page: location.pathname, ...(this.#sendsIdentity && this.#identity) };
  }

  get hasWelcomeMessage() {
    return this.#embed.options.welcome && !cookies.hidesWelcomeMessage();
  }
}
