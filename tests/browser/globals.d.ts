// Declares what identify.js and launcher.js use beyond TypeScript's own types of the DOM.

interface Window {
  [name: string]: any;
}

interface Document {
  readonly prerendering?: boolean;
}

interface Function {
  timer?: number; // of schedule()
}

// Options without a prototype, because injected JSON may have changed the page's Object.prototype.
interface WithoutPrototype {
  __proto__?: null;
}
interface CustomEventInit extends WithoutPrototype {}
interface MutationObserverInit extends WithoutPrototype {}
interface PerformanceObserverInit extends WithoutPrototype {}
interface RequestInit extends WithoutPrototype {}
