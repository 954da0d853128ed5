// Bundles the panel into the Python package: one ES module and one style sheet.
import { context } from "esbuild";

const watching = process.argv.includes("--watch");

const bundle = await context({
  entryPoints: { widget: "src/index.tsx", style: "src/style.css" },
  outdir: "../src/nbloader/static",
  entryNames: "[name]",
  outExtension: { ".js": ".js", ".css": ".css" },
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: !watching,
  sourcemap: watching ? "inline" : false,
  jsx: "automatic",
  jsxImportSource: "preact",
  logLevel: watching ? "info" : "warning",
});

if (watching) {
  await bundle.watch();
} else {
  await bundle.rebuild();
  await bundle.dispose();
}
