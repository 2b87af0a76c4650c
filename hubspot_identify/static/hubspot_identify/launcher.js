/**
 * The button that stands where HubSpot's chat will be, for LOAD_ON = "interaction".
 *
 * identify.js adds this file with the texts in data-labels. Going near the button loads the chat, pressing it
 * opens the chat; when the chat is there, or turns out not to be, the button goes. Its looks are CSS variables:
 * --hubspot-identify-background, -color, -inset, -radius, -font and -z-index.
 */
(() => {
  "use strict";

  const NAME = "hubspot-identify-launcher";
  const FAREWELL = 6000; // milliseconds to read that there is no chat

  const script = Reflect.get(Document.prototype, "currentScript", document);
  if (!(script instanceof HTMLScriptElement) || document.querySelector(`.${NAME}`)) return;
  const chat = window.hubspotIdentify;
  const labels = {
    open: "Chat with us",
    loading: "The chat is loading…",
    unavailable: "The chat is not available right now.",
    ...JSON.parse(script.getAttribute("data-labels") || "{}"),
  };

  // A style sheet made by script needs no leave of the page's Content-Security-Policy.
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    .${NAME} {
      position: fixed;
      inset: auto var(--hubspot-identify-inset, 1rem) var(--hubspot-identify-inset, 1rem) auto;
      z-index: var(--hubspot-identify-z-index, 2147483000);
      font: var(--hubspot-identify-font, 600 1rem/1.25 system-ui, sans-serif);
    }
    .${NAME} button, .${NAME} p:only-child {
      box-sizing: border-box;
      max-width: calc(100vw - 2rem);
      margin: 0;
      padding: 0.875em 1.25em;
      border: 2px solid transparent;
      border-radius: var(--hubspot-identify-radius, 2em);
      color: var(--hubspot-identify-color, #fff);
      background: var(--hubspot-identify-background, #1f5fa8);
      box-shadow: 0 2px 10px rgb(0 0 0 / 30%);
      font: inherit;
    }
    .${NAME} button + p { position: absolute; overflow: hidden; width: 1px; height: 1px; clip-path: inset(50%); }
    .${NAME} button { min-height: 3rem; cursor: pointer; }
    .${NAME} button:hover { filter: brightness(1.12); }
    .${NAME} button:focus-visible { outline: 3px solid currentcolor; outline-offset: -7px; }
    .${NAME} [data-loading] { cursor: progress; }
    @media (prefers-reduced-motion: no-preference) {
      .${NAME} button { transition: filter 0.15s, transform 0.15s; }
      .${NAME} button:hover { transform: translateY(-2px); }
      .${NAME} [data-loading] { animation: ${NAME} 1.2s ease-in-out infinite alternate; }
    }
    @keyframes ${NAME} { to { filter: brightness(1.35); } }
    @media print { .${NAME} { display: none; } }
  `);

  const region = document.createElement("aside");
  const button = document.createElement("button");
  const message = document.createElement("p");
  region.className = NAME;
  Object.assign(region, { alive: true }); // which a copy from a snapshot is not
  region.ariaLabel = labels.open;
  button.type = "button";
  button.textContent = labels.open;
  message.role = "status";
  region.append(button, message);

  let pressed = false;
  let ready = false;
  let gone = false;
  const near = () => chat.load();
  button.addEventListener("pointerenter", near);
  button.addEventListener("focus", near);
  button.addEventListener("click", () => {
    pressed = true;
    button.dataset.loading = "";
    // A button that changes its name is not read out again, a message is.
    button.textContent = message.textContent = labels.loading;
    chat.open();
    if (ready) leave();
  });
  // Whoever came by keyboard and has not pressed yet keeps the button, for no focus should jump by itself.
  button.addEventListener("blur", () => ready && leave());

  // The options have no prototype, because injected JSON may have polluted the page's Object.prototype.
  /** @type {any} */
  const childList = { __proto__: null, childList: true };

  // A replaced body has no button, and a body restored from a snapshot has a copy that does not work.
  const place = () => {
    for (const copy of document.querySelectorAll(`.${NAME}`)) if (!Object.hasOwn(copy, "alive")) copy.remove();
    if (!gone && !region.isConnected) document.body.append(region);
    observer.observe(document.body, childList);
  };
  const observer = new MutationObserver(place);
  observer.observe(document.documentElement, childList);

  function arrive() {
    ready = true;
    // Held down, it is about to be covered by the chat, which would get the release.
    if (button.matches(":active")) button.click();
    else if (pressed || document.activeElement !== button) leave();
  }

  function leave() {
    if (gone) return;
    const focused = region.contains(document.activeElement);
    gone = true;
    region.remove();
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((each) => each !== sheet);
    document.removeEventListener("hubspot-identify:ready", arrive);
    document.removeEventListener("hubspot-identify:widgetHidden", giveUp);
    document.removeEventListener("hubspot-identify:failed", giveUp);
    /** @type {HTMLElement | null} */
    const frame = document.querySelector("#hubspot-messages-iframe-container iframe");
    if (focused && pressed) frame?.focus();
  }

  /** @param {Event} event */
  function giveUp(event) {
    // Without an identity there is a chat all the same.
    if (event instanceof CustomEvent && event.detail?.reason === "endpoint") return;
    if (!pressed) return leave();
    const focused = document.activeElement === button;
    button.remove();
    message.textContent = labels.unavailable;
    message.tabIndex = -1;
    if (focused) message.focus();
    setTimeout(leave, FAREWELL);
  }

  document.addEventListener("hubspot-identify:ready", arrive);
  document.addEventListener("hubspot-identify:widgetHidden", giveUp);
  document.addEventListener("hubspot-identify:failed", giveUp);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  if (document.body) place();
})();
