/* The chat's iframe in the page. */
import * as cookies from "./cookies.js";
import { record } from "./log.js";

const CORNER = { position: "fixed", right: "12px", bottom: "12px", zIndex: "2147483647" };
const OPEN = { width: "min(370px, calc(100vw - 24px))", height: "min(480px, calc(100vh - 24px))" };
const CLOSED = { width: "min(250px, calc(100vw - 24px))", height: "72px" };
const WITH_WELCOME_MESSAGE = { ...CLOSED, height: "140px" };
const WHOLE_PAGE = { inset: "0", width: "100%", height: "100%" };
/** With these, the style sheet makes the page unscrollable. HubSpot keeps them when it removes an open chat. */
const PHONE_CLASSES = ["hs-messages-mobile", "hs-messages-widget-open"];

const isPhone = () => innerWidth < 500;

/**
 * One iframe and its container.
 *
 * The iframe runs chat.js. Messages to it: start, session, open, close. Messages from it: ready, shown, opened, closed,
 * dismissed, typed, sent.
 */
export class Frame {
  #owner;
  #container = document.createElement("div");
  #iframe = document.createElement("iframe");
  #isInline;
  #isOpen;
  #hasWelcomeMessage = false;
  #visitor;
  #queue = []; // messages to an iframe that has not started yet

  /**
   * @param owner the Widget that it belongs to: {session, hasWelcomeMessage, emitter}
   * @param url of the chat
   * @param isOpen whether the chat is open at first
   */
  constructor(owner, url, isOpen) {
    this.#owner = owner;
    const selector = window.hsConversationsSettings?.inlineEmbedSelector;
    const parent = selector && document.querySelector(selector);
    this.#isInline = Boolean(parent);
    this.#isOpen = this.#isInline || isOpen;
    this.#container.id = parent ? "hubspot-conversations-inline-parent" : "hubspot-messages-iframe-container";
    this.#iframe.id = "hubspot-conversations-iframe";
    this.#iframe.title = "Chat widget";
    this.#iframe.src = url;
    this.#container.append(this.#iframe);
    this.#place();
    (parent || document.body).append(this.#container);
    window.addEventListener("message", this.#onMessage);
  }

  get isInPage() {
    return this.#container.isConnected;
  }

  /** The visitor that the iframe shows: an e-mail address, "unknown" (anonymous), or undefined if it shows none. */
  get visitor() {
    return this.isInPage ? this.#visitor : undefined;
  }

  remove() {
    window.removeEventListener("message", this.#onMessage);
    this.#container.remove();
  }

  send(message) {
    if (this.#queue) this.#queue.push(message);
    else this.#post(message);
  }

  #post(message) {
    record("posted", { type: message.type });
    this.#iframe.contentWindow?.postMessage({ hubspotSandbox: message }, new URL(this.#iframe.src).origin);
  }

  #place() {
    let style = { height: "480px" };
    if (!this.#isInline) style = { ...CORNER, ...this.#size() };
    this.#container.removeAttribute("style");
    Object.assign(this.#container.style, style);
    Object.assign(this.#iframe.style, { width: "100%", height: "100%", border: "0", colorScheme: "light" });
  }

  #size() {
    if (this.#isOpen) return isPhone() ? WHOLE_PAGE : OPEN;
    return this.#hasWelcomeMessage ? WITH_WELCOME_MESSAGE : CLOSED;
  }

  #setOpen(isOpen) {
    this.#isOpen = isOpen || this.#isInline;
    this.#hasWelcomeMessage = false;
    this.#place();
    if (!isPhone() || this.#isInline) return;
    for (const name of PHONE_CLASSES) document.documentElement.classList.toggle(name, isOpen);
  }

  #onMessage = ({ source, data }) => {
    const message = data?.hubspotSandbox;
    if (message && source === this.#iframe.contentWindow) this.#handlers[message.type]?.(message);
  };

  #handlers = {
    ready: () => {
      this.#visitor = undefined;
      this.#hasWelcomeMessage = !this.#isOpen && this.#owner.hasWelcomeMessage;
      this.#place();
      const state = { isOpen: this.#isOpen, hasWelcomeMessage: this.#hasWelcomeMessage };
      this.#post({ type: "start", ...state, ...this.#owner.session });
      for (const message of this.#queue ?? []) this.#post(message);
      this.#queue = null;
    },

    shown: ({ visitor }) => {
      record("shown", { visitor });
      this.#visitor = visitor;
    },

    opened: ({ byVisitor }) => {
      this.#setOpen(true);
      cookies.rememberOpen();
      if (byVisitor) this.#owner.emitter.emit("userInteractedWithWidget");
    },

    closed: () => {
      this.#setOpen(false);
      cookies.forgetOpen();
      cookies.hideWelcomeMessage();
      this.#owner.emitter.emit("widgetClosed");
    },

    // The visitor has closed the welcome message of a closed chat, so no widgetClosed follows.
    dismissed: () => {
      this.#hasWelcomeMessage = false;
      this.#place();
      cookies.hideWelcomeMessage();
      this.#owner.emitter.emit("userInteractedWithWidget");
    },

    typed: () => this.#owner.emitter.emit("userInteractedWithWidget"),

    sent: ({ started, thread, known }) => {
      const detail = { conversation: { conversationId: thread } };
      if (started) this.#owner.emitter.emit("conversationStarted", detail);
      if (known) this.#owner.emitter.emit("contactAssociated", detail);
    },
  };
}
