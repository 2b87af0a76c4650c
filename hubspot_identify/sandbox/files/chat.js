/* The chat in the iframe of the simulated widget. It gets the visitor's identity from the page. */
(() => {
  "use strict";
  const visitor = { email: "", token: "", utk: "", page: "" };
  const launcher = document.getElementById("launcher");
  const panel = document.getElementById("panel");
  const input = document.forms.compose.elements.text;

  const send = (message) => parent.postMessage({ hubspotSandbox: message }, location.origin);

  // Responses may arrive in another order. Only that of the latest request is shown.
  let requests = 0;
  async function fetchThread(text = "") {
    const number = ++requests;
    const response = await fetch("thread/", {
      method: "POST",
      credentials: "omit",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...visitor, text }),
    });
    const thread = await response.json();
    if (number !== requests) return thread;
    const { contact } = thread;
    document.body.dataset.visitor = contact ? contact.email : "unknown";
    const unknown = "Unknown visitor";
    document.getElementById("who").textContent = contact
      ? `Chatting as ${contact.email} (verified)`
      : unknown;
    document.getElementById("short").textContent = contact ? `as ${contact.email} ✓` : unknown;
    document.getElementById("messages").replaceChildren(
      ...thread.messages.map((message) =>
        Object.assign(document.createElement("li"), { textContent: message }),
      ),
    );
    return thread;
  }

  function show(open) {
    panel.hidden = !open;
    launcher.hidden = open;
    launcher.setAttribute("aria-expanded", String(open));
  }
  function open(byVisitor) {
    show(true);
    send({ type: "opened", byVisitor });
    if (byVisitor) input.focus();
  }
  function close() {
    show(false);
    send({ type: "closed" });
  }

  launcher.addEventListener("click", () => open(true));
  document.getElementById("close").addEventListener("click", close);
  input.addEventListener("input", () => send({ type: "typed" }), { once: true });
  document.forms.compose.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (!text) return;
    input.value = "";
    const { started, thread, contact } = await fetchThread(text);
    send({ type: "sent", started, thread, known: Boolean(contact) });
  });

  const HANDLERS = {
    start({ open: isOpen, utk, page, email = "", token = "" }) {
      Object.assign(visitor, { utk, page, email, token });
      launcher.disabled = false; // an earlier click would be lost
      if (isOpen) open(false);
      fetchThread();
    },
    identity({ email, token }) {
      Object.assign(visitor, { email, token });
      fetchThread();
    },
    open: () => open(false),
    close,
  };
  window.addEventListener("message", ({ source, origin, data }) => {
    const message = data?.hubspotSandbox;
    if (message && source === parent && origin === location.origin) HANDLERS[message.type]?.(message);
  });
  send({ type: "ready" });
})();
