/* The chat in the iframe of the simulated widget. The page sends it the visitor's session; see embed/frame.js. */

class Chat {
  #session = {}; // {utk, page, email, token}
  #requests = 0;
  #launcher = document.getElementById("launcher");
  #panel = document.getElementById("panel");
  #welcome = document.getElementById("welcome");
  #form = document.querySelector("form");
  #input = document.querySelector("input");

  #handlers = {
    start: ({ isOpen, hasWelcomeMessage, ...session }) => {
      this.#launcher.removeAttribute("disabled"); // an earlier click would be lost
      this.#welcome.hidden = !hasWelcomeMessage;
      if (isOpen) this.#open({ byVisitor: false });
      this.#setSession(session);
    },
    session: (session) => this.#setSession(session),
    open: () => this.#open({ byVisitor: false }),
    close: () => this.#close(),
  };

  constructor() {
    window.addEventListener("message", ({ source, data }) => {
      const { type, ...message } = data?.hubspotSandbox ?? {};
      if (source === parent) this.#handlers[type]?.(message);
    });
    this.#launcher.addEventListener("click", () => this.#open({ byVisitor: true }));
    document.getElementById("close").addEventListener("click", () => this.#close());
    document.getElementById("dismiss").addEventListener("click", () => this.#dismiss());
    this.#input.addEventListener("input", () => this.#post({ type: "typed" }), { once: true });
    this.#form.addEventListener("submit", (event) => this.#submit(event));
    this.#post({ type: "ready" });
  }

  #post(message) {
    // The page may be on any origin. The message contains nothing that the page has not sent.
    parent.postMessage({ hubspotSandbox: message }, "*");
  }

  #setSession({ email = "", token = "", ...session }) {
    this.#session = { ...session, email, token };
    this.#fetchConversation();
  }

  #open({ byVisitor }) {
    this.#show(true);
    this.#post({ type: "opened", byVisitor });
    if (byVisitor) this.#input.focus();
  }

  #close() {
    this.#show(false);
    this.#post({ type: "closed" });
  }

  #dismiss() {
    this.#welcome.hidden = true;
    this.#post({ type: "dismissed" });
  }

  #show(isOpen) {
    this.#panel.hidden = !isOpen;
    this.#launcher.hidden = isOpen;
    this.#welcome.hidden ||= isOpen;
    this.#launcher.setAttribute("aria-expanded", String(isOpen));
  }

  async #submit(event) {
    event.preventDefault();
    const text = this.#input.value.trim();
    if (!text) return;
    this.#input.value = "";
    const { started, thread, contact } = await this.#fetchConversation(text);
    this.#post({ type: "sent", started, thread, known: Boolean(contact) });
  }

  /** Adds a message, if there is one, and displays the conversation. */
  async #fetchConversation(text = "") {
    const number = ++this.#requests;
    const response = await fetch("thread/", {
      method: "POST",
      credentials: "omit",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...this.#session, text }),
    });
    const conversation = await response.json();
    // Responses may arrive in another order. Only that to the latest request is displayed.
    if (number === this.#requests) this.#display(conversation);
    return conversation;
  }

  #display({ contact, messages }) {
    const visitor = contact ? contact.email : "unknown";
    document.body.dataset.visitor = visitor;
    document.getElementById("who").textContent = contact ? `Chatting as ${visitor} (verified)` : "Unknown visitor";
    document.getElementById("short").textContent = contact ? `as ${visitor} ✓` : "Unknown visitor";
    const items = messages.map((message) => Object.assign(document.createElement("li"), { textContent: message }));
    document.getElementById("messages").replaceChildren(...items);
    this.#post({ type: "shown", visitor });
  }
}

new Chat();
