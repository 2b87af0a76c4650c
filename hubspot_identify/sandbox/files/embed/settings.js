/* window.hsConversationsSettings. */
import { record, warn } from "./log.js";

const isText = (value) => typeof value === "string";
const isBoolean = (value) => typeof value === "boolean";
const BANNERS = ["ON_WIDGET_LOAD", "ON_EXIT_INTENT"];

const TYPES = {
  loadImmediately: isBoolean,
  identificationEmail: isText,
  identificationToken: isText,
  inlineEmbedSelector: isText,
  enableWidgetCookieBanner: (value) => isBoolean(value) || BANNERS.includes(value),
  disableAttachment: isBoolean,
  disableInitialInputFocus: isBoolean,
  avoidInlineStyles: isBoolean,
  hideNewThreadLink: isBoolean,
};

/** Returns the settings. null and values of a wrong type raise an error, which stops the widget. */
export function readSettings() {
  const settings = window.hsConversationsSettings;
  if (settings === undefined) return {};
  if (settings === null || typeof settings !== "object") reject("hsConversationsSettings");
  for (const [name, hasRightType] of Object.entries(TYPES)) {
    if (settings[name] !== undefined && !hasRightType(settings[name])) reject(name);
  }
  return settings;
}

function reject(setting) {
  record("invariant violation", { setting });
  throw new Error(`Invariant Violation: ${setting} has the wrong type`);
}

/** Returns the visitor's {email, token}, or null unless both are set. */
export function readIdentity() {
  const { identificationEmail: email, identificationToken: token } = readSettings();
  if (!email !== !token) warn("identificationEmail and identificationToken must both be set, ignoring them");
  const identity = email && token ? { email, token } : null;
  record("identity read", { email: identity?.email ?? null });
  return identity;
}
