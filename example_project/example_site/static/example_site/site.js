/* Lists the app's events on the page, with the time of each. */
const DESCRIPTIONS = {
  ready: "the chat has loaded",
  identified: "the chat has identified you",
  anonymous: "you are anonymous in the chat",
  failed: "the chat or the identity could not be loaded",
  reset: "the visitor has changed, so the previous chat was removed",
  widgetHidden: "this page has no chat",
  conversationStarted: "a conversation has started",
  contactAssociated: "the conversation belongs to a known contact",
  widgetClosed: "the chat was closed",
};
for (const [name, description] of Object.entries(DESCRIPTIONS)) {
  document.addEventListener(`hubspot-identify:${name}`, () => {
    const item = document.createElement("li");
    const seconds = document.createElement("time");
    seconds.textContent = `${(performance.now() / 1000).toFixed(1)} s`;
    item.append(seconds, ` ${description}`);
    document.getElementById("events")?.append(item);
  });
}
