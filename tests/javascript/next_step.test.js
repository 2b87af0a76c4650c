/*
 * What identify.js does in each state, without a browser: `npm test`.
 *
 * A row changes the state of a chat that is loaded and shows its visitor, and names the next step.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { runInThisContext } from "node:vm";

const SCRIPT = new URL("../../hubspot_identify/static/hubspot_identify/identify.js", import.meta.url);
const nextStep = runInThisContext(readFileSync(SCRIPT, "utf-8")); // what the script returns where there is no document

const SECOND = 1000;
const NOW = 100 * SECOND;

const IDENTIFIED = { visitor: { subject: "ada", token: "token" }, widget: { token: "token" } };
const ANONYMOUS = { visitor: { subject: "", token: "" }, widget: { token: "" } };
const NOT_LOADED = { widget: { phase: "loading", token: undefined }, status: {} };
const PENDING = { widget: { phase: "loading" }, status: { pending: true } };
const HIDDEN = { widget: { phase: "hidden" }, status: {} };
const REMOVED = { widget: { phase: "waiting" }, status: {} };
const secondsAgo = (seconds) => ({ widget: { calledAt: NOW - seconds * SECOND } });

/** Merges the records of several states. */
function state(...changes) {
  const merged = {
    visitor: { failures: 0 },
    widget: { phase: "ready", calledAt: NOW - 60 * SECOND },
    page: { wantsChat: true, hasLoader: true },
    status: { loaded: true, pending: false },
  };
  for (const change of [IDENTIFIED, ...changes]) {
    for (const [name, record] of Object.entries(change)) {
      merged[name] = name === "status" ? record : { ...merged[name], ...record };
    }
  }
  return merged;
}

const cases = [
  // A chat that needs nothing
  ["identified", "announce", {}],
  ["anonymous", "announce", ANONYMOUS],
  ["no chat for this address", "announce", HIDDEN],
  ["the identity has expired, the chat still knows it", "announce", { visitor: { token: "" } }],

  // The visitor is not known, or wants no chat
  ["the chat is not wanted", undefined, NOT_LOADED, { page: { wantsChat: false } }],
  ["the visitor is being requested", undefined, NOT_LOADED, { visitor: { request: {} } }],
  ["the visitor is being requested, and may be another one", undefined, { visitor: { request: {} }, widget: { mustReset: true } }],
  ["the endpoint fails, and the visitor may be another one", undefined, { visitor: { isUncertain: true } }],
  ["the former visitor's chat is pending, the visitor is requested", undefined, PENDING, { visitor: { request: {} } }],

  // HubSpot's script
  ["it has not been added", "addLoader", NOT_LOADED, { page: { hasLoader: false } }, { status: undefined }],
  ["it is not wanted", undefined, { page: { hasLoader: false, wantsChat: false } }, { status: undefined }],
  ["it has not run yet", "wait", NOT_LOADED, secondsAgo(14), { status: undefined }],
  ["it does not arrive", "giveUp", NOT_LOADED, secondsAgo(15), { status: undefined }],

  // Start
  ["the visitor is known", "load", NOT_LOADED],
  ["HubSpot's script was added just now", "load", NOT_LOADED, secondsAgo(0)],
  ["the visitor is anonymous", "load", NOT_LOADED, { visitor: { token: "" } }],
  ["a former visitor's chat was never loaded", "load", NOT_LOADED, { widget: { mustReset: true } }],

  // A chat that is loading
  ["pending", "wait", PENDING, secondsAgo(14)],
  ["neither loaded nor pending yet", "wait", { widget: { phase: "loading" }, status: {} }, secondsAgo(1)],
  ["stuck", "rebuild", PENDING, secondsAgo(15)],
  ["stuck for the second time", "giveUp", PENDING, secondsAgo(15), { widget: { wasStuck: true } }],
  ["stuck, but the visitor has opened it", "wait", PENDING, secondsAgo(99), { widget: { inUse: true } }],
  ["of a former visitor", "wait", PENDING, secondsAgo(14), { widget: { mustReset: true } }],
  ["of a former visitor, stuck", "reloadPage", PENDING, secondsAgo(15), { widget: { mustReset: true } }],
  ["of a former visitor, stuck, in use", "reloadPage", PENDING, secondsAgo(15), { widget: { mustReset: true, inUse: true } }],

  // Another visitor
  ["a former visitor's chat", "reset", { widget: { mustReset: true } }],
  ["a former visitor's chat in use", "reset", { widget: { mustReset: true, inUse: true } }],
  ["a former visitor's chat, hidden by HubSpot", "reset", HIDDEN, { widget: { mustReset: true } }],
  ["a former visitor's chat, loaded just now", "reset", secondsAgo(0), { widget: { mustReset: true } }],
  ["a former visitor's chat that was stuck", "reloadPage", { widget: { mustReset: true, wasStuck: true } }],
  ["a former visitor's refresh is in progress", "wait", secondsAgo(14), { widget: { mustReset: true, isRefreshing: true } }],
  ["a former visitor's refresh gets no response", "reloadPage", secondsAgo(15), { widget: { mustReset: true, isRefreshing: true } }],

  // The same visitor: a new token, another address
  ["an anonymous chat, and a token", "refresh", { widget: { token: "" } }],
  ["a renewed token", "refresh", { widget: { token: "former token" } }],
  ["a renewed token for a chat in use", "announce", { widget: { token: "former token", inUse: true } }],
  ["another address", "refresh", { widget: { needsRefresh: true } }],
  ["another address, no chat at the former one", "refresh", HIDDEN, { widget: { needsRefresh: true } }],
  ["another address, chat in use", "announce", { widget: { needsRefresh: true, inUse: true } }],
  ["another address, a second after the last call", "wait", secondsAgo(1), { widget: { needsRefresh: true } }],
  ["another address, long enough after the last call", "refresh", secondsAgo(1.2), { widget: { needsRefresh: true } }],
  ["another address, a refresh in progress", "wait", secondsAgo(2), { widget: { needsRefresh: true, isRefreshing: true } }],
  ["another address, a refresh without response", "refresh", secondsAgo(15), { widget: { needsRefresh: true, isRefreshing: true } }],

  // The container
  ["the body was replaced", "rebuild", { widget: { isLost: true } }],
  ["the body was replaced, chat in use", "rebuild", { widget: { isLost: true, inUse: true } }],
  ["the body was replaced, a second after the last call", "wait", secondsAgo(1), { widget: { isLost: true } }],
  ["the body was replaced, long enough after the last call", "rebuild", secondsAgo(1.2), { widget: { isLost: true } }],
  ["the page removed the widget, and wants it again", "rebuild", REMOVED],
  ["the page removed the widget", undefined, REMOVED, { page: { wantsChat: false } }],
];

for (const [title, step, ...changes] of cases) {
  test(`${title}: ${step ?? "nothing"}`, () => assert.equal(nextStep(state(...changes), NOW), step));
}

test("a step that has to wait is not lost, however early a timer is", () => {
  const changes = [{ widget: { needsRefresh: true } }, { widget: { isLost: true } }];
  for (const change of changes) {
    for (const age of [0, 0.5, 1.199]) assert.equal(nextStep(state(change, secondsAgo(age)), NOW), "wait");
  }
});

test("the state is not changed", () => {
  const freeze = (record) => record && Object.freeze(record);
  for (const [, , ...changes] of cases) {
    const frozen = Object.fromEntries(Object.entries(state(...changes)).map(([name, record]) => [name, freeze(record)]));
    nextStep(Object.freeze(frozen), NOW);
  }
});
