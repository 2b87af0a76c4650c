/*
 * Simulates HubSpot's loader (https://js.hs-scripts.com/<portal>.js), which loads the widget's script asynchronously.
 * The query of this script's URL can contain options for tests:
 *
 *   loader=throw     this script raises an error
 *   latency=800      the widget's API call takes this many milliseconds
 *   delay=2000       the display delay of the chatflow, in milliseconds
 *   chat=none        there is no chat on this page: widgetHidden
 *   api=fail         the widget's API call fails
 *
 * Tests can change the last four later, in window.__hubspotSandbox.options; see embed.js.
 */
(() => {
  "use strict";
  const here = new URL(document.currentScript.src);
  if (here.searchParams.get("loader") === "throw") throw new Error("HubSpot sandbox: simulated failure of the loader");

  const add = (src, id) => {
    const script = document.createElement("script");
    if (id) script.id = id;
    script.async = true;
    script.src = src;
    document.head.append(script);
  };

  // HubSpot's loader loads itself again if no element has its id.
  if (!document.getElementById("hs-script-loader")) add(here.href, "hs-script-loader");

  const embed = new URL("../embed.js", here);
  embed.search = here.search;
  embed.searchParams.set("portal", here.pathname.replace(/^.*\/|\.js$/g, ""));
  add(embed.href);
})();
