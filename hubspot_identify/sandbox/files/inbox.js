/* Keeps the inbox up to date by fetching it anew. */
setInterval(async () => {
  if (document.hidden) return;
  try {
    const page = await (await fetch(location.href)).text();
    const fresh = new DOMParser().parseFromString(page, "text/html").getElementById("inbox");
    const shown = document.getElementById("inbox");
    if (fresh && fresh.textContent !== shown.textContent) shown.replaceWith(fresh);
  } catch {
    // The server is gone for the moment; the next round will tell.
  }
}, 2000);
