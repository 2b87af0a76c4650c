// What identify.js and launcher.js know of their surroundings beyond TypeScript's own DOM.

interface Window {
  [name: string]: any;
}

interface Document {
  readonly prerendering?: boolean;
}

interface PerformanceEntry {
  // Of the entry of type "navigation".
  readonly type?: string;
  readonly transferSize?: number;
  readonly encodedBodySize?: number;
  readonly deliveryType?: string;
  readonly activationStart?: number;
}
