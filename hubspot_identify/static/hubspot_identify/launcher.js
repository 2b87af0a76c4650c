/**
 * The button in place of HubSpot's chat, for LOAD_ON = "interaction".
 *
 * identify.js adds this file, with the texts in data-labels. Pointing at the button or focusing it loads the chat.
 * Pressing it opens the chat. The button is removed when the chat is ready, and when there is no chat.
 * CSS variables change its look: --hubspot-identify-background, -color, -inset, -radius, -font and -z-index.
 */
(() => {
  "use strict";

  const NAME = "hubspot-identify-launcher";
  const CHAT_FRAMES = "#hubspot-messages-iframe-container iframe, #hubspot-conversations-inline-parent iframe";
  const MESSAGE_TIME = 6000; // milliseconds to read that there is no chat

  const script = Reflect.get(Document.prototype, "currentScript", document);
  if (!(script instanceof HTMLScriptElement) || document.querySelector(`.${NAME}`)) return;
  const chat = window.hubspotIdentify;
  const labels = {
    open: "Chat with us",
    loading: "The chat is loading…",
    unavailable: "The chat is not available right now.",
    ...JSON.parse(script.getAttribute("data-labels") || "{}"),
  };

  const region = document.createElement("aside");
  const button = document.createElement("button");
  const message = document.createElement("p");
  region.className = NAME;
  region.setAttribute("aria-label", labels.open);
  message.setAttribute("role", "status");
  // The texts may be in another language than the page, and then run in another direction.
  button.dir = message.dir = "auto";
  button.type = "button";
  button.textContent = labels.open;
  region.append(button, message);

  // ---- Style

  // The region is as wide as the window, so that the button is at the end of the line in both text directions, and a
  // long text wraps. The padding keeps the button out of the notch and the bars of a phone.
  const REGION = `
    position: fixed;
    right: var(--hubspot-identify-inset, 1rem);
    bottom: var(--hubspot-identify-inset, 1rem);
    left: var(--hubspot-identify-inset, 1rem);
    z-index: var(--hubspot-identify-z-index, 2147483000);
    display: flex;
    justify-content: flex-end;
    padding: 0 env(safe-area-inset-right) env(safe-area-inset-bottom) env(safe-area-inset-left);
    font: var(--hubspot-identify-font, 600 1rem/1.25 system-ui, sans-serif);
    pointer-events: none;
  `;
  const BOX = `
    box-sizing: border-box;
    min-width: 0;
    margin: 0;
    padding: 0.875em 1.25em;
    border: 2px solid transparent;
    border-radius: var(--hubspot-identify-radius, 2em);
    color: var(--hubspot-identify-color, #fff);
    background: var(--hubspot-identify-background, #1f5fa8);
    font: inherit;
    overflow-wrap: break-word;
    pointer-events: auto;
  `;
  // A long press must not select text.
  const BUTTON = `
    min-height: 3rem;
    cursor: pointer;
    touch-action: manipulation;
    -webkit-user-select: none;
    user-select: none;
  `;
  const HIDDEN = "position: absolute; overflow: hidden; width: 1px; height: 1px; clip-path: inset(50%);";

  // A Content-Security-Policy restricts neither constructed style sheets nor changes of element.style. Browsers without
  // constructed style sheets (Safari before 16.4, Firefox before 101) show the button without its effects.
  const hasStyleSheets = "adoptedStyleSheets" in Document.prototype;
  if (hasStyleSheets) {
    const sheet = new CSSStyleSheet();
    // No effect changes the colors of the text or of its background, whose contrast the site has chosen.
    sheet.replaceSync(`
      .${NAME} { ${REGION} }
      .${NAME} button, .${NAME} p:only-child { ${BOX} box-shadow: 0 2px 10px rgb(0 0 0 / 30%); }
      .${NAME} button { ${BUTTON} }
      .${NAME} button + p { ${HIDDEN} }
      .${NAME} button:hover { box-shadow: 0 4px 18px rgb(0 0 0 / 55%); }
      .${NAME} button:focus-visible { outline: 3px solid currentcolor; outline-offset: -7px; }
      .${NAME} [data-loading] { cursor: progress; }
      @media (prefers-reduced-motion: no-preference) {
        .${NAME} button { transition: box-shadow 0.15s; }
        .${NAME} [data-loading] { animation: ${NAME} 1.2s ease-in-out infinite alternate; }
      }
      @keyframes ${NAME} { to { box-shadow: 0 2px 10px rgb(0 0 0 / 30%), 0 0 0 0.4em rgb(128 128 128 / 60%); } }
      @media print { .${NAME} { display: none; } }
    `);
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  } else {
    region.style.cssText = REGION;
    button.style.cssText = BOX + BUTTON;
    message.style.cssText = HIDDEN;
  }

  // ---- State

  let isPressed = false;
  let isRemoved = false;
  /** @type {"ready" | "unavailable" | undefined} */
  let outcome; // of loading the chat
  /** @type {number} */
  let pointerId; // the last one that pressed the button

  const isHeld = () => button.hasPointerCapture(pointerId);
  const isFocused = () => document.activeElement === button;

  /** @returns {HTMLElement | null} */
  const chatFrame = () => document.querySelector(CHAT_FRAMES);

  function openChat() {
    if (isPressed) return;
    isPressed = true;
    button.dataset.loading = "";
    // Screen readers do not announce that a button has changed its name. They announce a status message.
    button.textContent = message.textContent = labels.loading;
    chat.open();
    update();
  }

  /** Shows the outcome, unless the visitor is using the button. */
  function update() {
    if (!outcome || isRemoved) return;
    // The chat covers the button. While the button is held down, the chat must not receive the pointerup event.
    const frame = chatFrame();
    if (frame) frame.style.pointerEvents = isHeld() ? "none" : "";
    if (isHeld()) return;
    if (isPressed && outcome === "unavailable") showUnavailable();
    else if (isPressed || !isFocused()) removeButton(); // the focus does not move before a press
  }

  function showUnavailable() {
    outcome = undefined; // it is shown once
    const hadFocus = isFocused();
    button.remove();
    if (!hasStyleSheets) message.style.cssText = BOX;
    message.textContent = labels.unavailable;
    message.tabIndex = -1;
    if (hadFocus) message.focus();
    setTimeout(removeButton, MESSAGE_TIME);
  }

  function removeButton() {
    if (isRemoved) return;
    isRemoved = true;
    if (isPressed && region.contains(document.activeElement)) focusChat();
    region.remove();
  }

  function focusChat() {
    const frame = chatFrame();
    if (!frame) return;
    const onLoad = () => {
      frame.removeEventListener("load", onLoad);
      if (document.activeElement !== frame) return;
      frame.blur();
      frame.focus();
    };
    // A document that loads in a focused iframe does not get the focus.
    frame.addEventListener("load", onLoad);
    // Firefox does not focus an iframe of another site during a key event.
    setTimeout(() => frame.focus());
  }

  // ---- Events

  const loadChat = () => chat.load();
  button.addEventListener("pointerenter", loadChat);
  button.addEventListener("focus", loadChat);
  button.addEventListener("blur", update);
  button.addEventListener("click", openChat);

  // The captured pointer keeps the button in the page until it is released. Moving away cancels the press.
  button.addEventListener("pointerdown", (event) => {
    pointerId = event.pointerId;
    if (event.button === 0) button.setPointerCapture(pointerId);
  });
  button.addEventListener("pointermove", ({ clientX, clientY }) => {
    if (!isHeld() || document.elementsFromPoint(clientX, clientY).includes(button)) return;
    button.releasePointerCapture(pointerId);
    button.blur(); // the press has focused it, and a focused button stays in the page
  });
  button.addEventListener("pointerup", () => isHeld() && openChat()); // the end of a long press is not a click
  button.addEventListener("lostpointercapture", update);
  button.addEventListener("contextmenu", (event) => {
    if (event instanceof PointerEvent && event.pointerType === "touch") event.preventDefault();
  });

  /** @param {typeof outcome} result */
  function onOutcome(result) {
    outcome = result;
    update();
  }
  document.addEventListener("hubspot-identify:ready", () => onOutcome("ready"));
  document.addEventListener("hubspot-identify:widgetHidden", () => onOutcome("unavailable"));
  document.addEventListener("hubspot-identify:failed", (event) => {
    // After a failure of the endpoint, the chat may still load.
    if (event instanceof CustomEvent && event.detail.reason !== "endpoint") onOutcome("unavailable");
  });

  // ---- Place in the page

  Object.assign(region, { isLive: true }); // a copy in a snapshot of the page does not have this property

  // The options have no prototype, because injected JSON may have polluted the page's Object.prototype.
  /** @type {any} */
  const childList = { __proto__: null, childList: true };

  /** Adds the button to a new body, and removes the copy from a body that a snapshot has restored. */
  function placeButton() {
    for (const copy of document.querySelectorAll(`.${NAME}`)) {
      if (!Object.prototype.hasOwnProperty.call(copy, "isLive")) copy.remove();
    }
    if (!isRemoved && !region.isConnected) document.body.append(region);
    observer.observe(document.body, childList);
  }
  const observer = new MutationObserver(placeButton);
  observer.observe(document.documentElement, childList);
  if (document.body) placeButton();
})();
