/*
 * Stand-in for HubSpot's loader (https://js.hs-scripts.com/<portal>.js): brings in the chat's own script, a
 * moment later and never at once, as the real one does. What a test may ask for in this script's URL:
 *
 *   loader=throw     this script throws
 *   latency=800      the widget's call of its API takes so many milliseconds
 *   delay=2000       the chatflow's display delay, in milliseconds
 *   chat=none        there is no chat on this page: widgetHidden
 *   api=fail         the widget's call of its API fails
 *
 * The last four can be changed later as window.__hubspotSandbox.knobs; see embed.js.
 */
(() => {
  "use strict";
  const here = new URL(document.currentScript.src);
  if (here.searchParams.get("loader") === "throw") throw new Error("stand-in loader: told to throw");

  const add = (src, id) => {
    const script = document.createElement("script");
    if (id) script.id = id;
    script.async = true;
    script.src = src;
    document.head.append(script);
  };

  // Whoever embeds the loader without its id gets it a second time.
  if (!document.getElementById("hs-script-loader")) add(here.href, "hs-script-loader");

  const embed = new URL("../embed.js", here);
  embed.search = here.search;
  embed.searchParams.set("portal", here.pathname.replace(/^.*\/|\.js$/g, ""));
  add(embed.href);
})();
