// What identify.js and launcher.js know of their surroundings beyond TypeScript's own DOM.

interface Window {
  [name: string]: any;
}

interface Document {
  readonly prerendering?: boolean;
}

interface PerformanceEntry {
  // of the one entry of type "navigation"
  readonly type?: string;
  readonly transferSize?: number;
}
