/* The chat inside the stand-in widget's iframe. It knows of its visitor only what the page tells it. */
(() => {
  "use strict";
  const visitor = { email: "", token: "", utk: "", page: "" };
  const launcher = document.getElementById("launcher");
  const panel = document.getElementById("panel");
  const input = document.forms.say.elements.text;

  const tell = (message) => parent.postMessage({ hubspotSandbox: message }, location.origin);

  // Answers may overtake each other; only the last question's counts.
  let asked = 0;
  async function ask(text = "") {
    const mine = ++asked;
    const response = await fetch("thread/", {
      method: "POST",
      credentials: "omit",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...visitor, text }),
    });
    const answer = await response.json();
    if (mine !== asked) return answer;
    const { contact } = answer;
    document.body.dataset.visitor = contact ? contact.email : "unknown";
    const unknown = "Unknown visitor";
    document.getElementById("who").textContent = contact
      ? `Chatting as ${contact.email} (verified)`
      : unknown;
    document.getElementById("short").textContent = contact ? `as ${contact.email} ✓` : unknown;
    document.getElementById("messages").replaceChildren(
      ...answer.messages.map((message) =>
        Object.assign(document.createElement("li"), { textContent: message }),
      ),
    );
    return answer;
  }

  function show(open) {
    panel.hidden = !open;
    launcher.hidden = open;
    launcher.setAttribute("aria-expanded", String(open));
  }
  function open(byVisitor) {
    show(true);
    tell({ type: "opened", byVisitor });
    if (byVisitor) input.focus();
  }
  function close() {
    show(false);
    tell({ type: "closed" });
  }

  launcher.addEventListener("click", () => open(true));
  document.getElementById("close").addEventListener("click", close);
  input.addEventListener("input", () => tell({ type: "typed" }), { once: true });
  document.forms.say.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (!text) return;
    input.value = "";
    const { started, thread, contact } = await ask(text);
    tell({ type: "said", started, thread, known: Boolean(contact) });
  });

  const ORDERS = {
    start({ open: isOpen, utk, page, email = "", token = "" }) {
      Object.assign(visitor, { utk, page, email, token });
      launcher.disabled = false; // before, a click would get lost
      if (isOpen) open(false);
      ask();
    },
    identity({ email, token }) {
      Object.assign(visitor, { email, token });
      ask();
    },
    open: () => open(false),
    close,
  };
  window.addEventListener("message", ({ source, origin, data }) => {
    const message = data?.hubspotSandbox;
    if (message && source === parent && origin === location.origin) ORDERS[message.type]?.(message);
  });
  tell({ type: "hello" });
})();
