/*
 * Simulates HubSpot's loader (https://js.hs-scripts.com/<portal>.js), which loads the widget's script asynchronously.
 * The query of this script's URL can contain options for tests:
 *
 *   loader=throw     this script raises an error
 *   latency=800      the widget's API call takes this many milliseconds
 *   delay=2000       the display delay of the chatflow, in milliseconds
 *   chat=none        there is no chat on this page
 *   api=fail         the widget's API call fails
 *   frame=https://…  the origin of the chat's iframe. Without it, this is the sandbox's. HubSpot's is never the page's
 *   welcome=1        a closed chat has a welcome message, until the visitor closes it
 *
 * Tests can change all but the first later, in window.__hubspotSandbox.options; see embed/main.js.
 */
(() => {
  "use strict";
  const here = new URL(/** @type {HTMLScriptElement} */ (document.currentScript).src);
  if (here.searchParams.get("loader") === "throw") throw new Error("HubSpot sandbox: simulated failure of the loader");

  const add = (src, id, type = "") => {
    const script = document.createElement("script");
    Object.assign(script, { id, type, src, async: true });
    document.head.append(script);
  };

  // HubSpot's loader loads itself again if no element has its id.
  if (!document.getElementById("hs-script-loader")) add(here.href, "hs-script-loader");

  const main = new URL("../embed/main.js", here);
  main.search = here.search;
  main.searchParams.set("portal", here.pathname.replace(/^.*\/|\.js$/g, ""));
  main.searchParams.set("instance", String(performance.now())); // the browser runs a module once for each URL
  add(main.href, "hubspot-messages-loader", "module");
})();
