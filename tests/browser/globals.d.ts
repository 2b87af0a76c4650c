// Declares what identify.js and launcher.js use beyond TypeScript's own types of the DOM.

interface Window {
  [name: string]: any;
}

interface Document {
  readonly prerendering?: boolean;
}

interface PerformanceEntry {
  // Properties of the entry of type "navigation".
  readonly type?: string;
  readonly transferSize?: number;
  readonly encodedBodySize?: number;
  readonly deliveryType?: string;
  readonly activationStart?: number;
}
