/* Updates the inbox by fetching the page every two seconds. */
setInterval(async () => {
  if (document.hidden) return;
  try {
    const page = await (await fetch(location.href)).text();
    const fresh = new DOMParser().parseFromString(page, "text/html").getElementById("inbox");
    const shown = document.getElementById("inbox");
    if (fresh && fresh.textContent !== shown.textContent) shown.replaceWith(fresh);
  } catch {
    // The server is not reachable at the moment. The next fetch may succeed.
  }
}, 2000);
