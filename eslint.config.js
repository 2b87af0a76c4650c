import js from "@eslint/js";
import { defineConfig } from "eslint/config";
import globals from "globals";

export default defineConfig(
  {
    files: ["hubspot_identify/**/*.js"],
    plugins: { js },
    extends: ["js/recommended"],
    linterOptions: { reportUnusedDisableDirectives: "error" },
    languageOptions: { sourceType: "script", globals: globals.browser },
    rules: {
      curly: ["error", "multi-line"],
      eqeqeq: "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-restricted-properties": [
        "error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML", "write"].map((property) => ({ property })),
      ],
      "no-var": "error",
      "prefer-const": "error",
    },
  },
  { files: ["hubspot_identify/sandbox/files/embed/*.js"], languageOptions: { sourceType: "module" } },
  { files: ["tests/javascript/*.js"], plugins: { js }, extends: ["js/recommended"], languageOptions: { globals: globals.node } },
);
