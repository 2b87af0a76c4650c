/* Lists the app's events on the page, so that one sees what happened and when. */
const WORDS = {
  ready: "the chat is here",
  identified: "the chat knows who you are",
  anonymous: "the chat does not know who you are",
  failed: "the chat could not be loaded, or nobody could say who you are",
  reset: "another visitor: the former one’s chat is cleared",
  widgetHidden: "there is no chat on this page",
  conversationStarted: "a conversation has begun",
  contactAssociated: "the conversation is a known contact’s",
  widgetClosed: "the chat was closed",
};
for (const [name, words] of Object.entries(WORDS)) {
  document.addEventListener(`hubspot-identify:${name}`, () => {
    const item = document.createElement("li");
    const seconds = document.createElement("time");
    seconds.textContent = `${(performance.now() / 1000).toFixed(1)} s`;
    item.append(seconds, ` ${words}`);
    document.getElementById("happened")?.append(item);
  });
}
