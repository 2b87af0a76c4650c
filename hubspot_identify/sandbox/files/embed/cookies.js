/* The chat's cookies. They are valid for the page's host without "www." and for its subdomains. */

const DAY = 24 * 60 * 60;
const DOMAIN = location.hostname.replace(/^www\./, "");
const NAMES = [
  "messagesUtk",
  "hs-messages-is-open",
  "hs-messages-hide-welcome-message",
  "hs-messages-widget-position_left",
  "hs-messages-widget-position_right",
  "hs-messages-widget-size",
];

/** Returns the value of a cookie, including one that a page on a parent domain has set. */
const read = (name) => new RegExp(`(?:^|; )${name}=([^;]*)`).exec(document.cookie)?.[1] ?? "";

function write(name, value, seconds) {
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `${name}=${value}; max-age=${seconds}; domain=.${DOMAIN}; path=/; SameSite=Lax${secure}`;
}

const remove = (...names) => names.forEach((name) => write(name, "", 0));

const randomText = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/**
 * Returns the key of this browser's conversation, and stores it for this host, even if it comes from a parent domain.
 * An identified visitor gets no new key.
 */
export function renewThread({ isIdentified }) {
  const thread = read("messagesUtk") || (isIdentified ? "" : randomText());
  if (thread) write("messagesUtk", thread, 180 * DAY);
  return thread;
}

export const wasOpen = () => read("hs-messages-is-open") === "true";
export const hidesWelcomeMessage = () => read("hs-messages-hide-welcome-message") === "true";
export const rememberOpen = () => write("hs-messages-is-open", "true", 30 * 60);
export const hideWelcomeMessage = () => write("hs-messages-hide-welcome-message", "true", DAY);
export const forgetOpen = () => remove("hs-messages-is-open");
export const forgetThread = () => remove("messagesUtk", "hs-messages-is-open");

/** Does what HubSpot's clear() does: deletes the cookies of this host, and not those of a parent domain. */
export const forgetAll = () => remove(...NAMES);
