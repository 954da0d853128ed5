// Runs code in a kernel and draws the widgets of its output as VS Code does: with its widget manager and require.js.

import { KernelManager, ServerConnection } from "@jupyterlab/services";
import { activate } from "@vscode/jupyter-ipywidgets8";

const WIDGET = "application/vnd.jupyter.widget-view+json";
const asked = new URLSearchParams(location.search);
const serverSettings = ServerConnection.makeSettings({
  baseUrl: location.origin,
  wsUrl: location.origin.replace("http", "ws"),
  token: asked.get("token"),
});

activate();
window.vscIPyWidgets8.load();

/** VS Code copies a widget's front end out of the kernel's environment, and tells require.js where it is. */
const loader = {
  widgetsRegisteredInRequireJs: new Set(),
  loadWidgetScript: async (name) => {
    window.requirejs.config({ paths: { [name]: `${location.origin}/vscode/${name}` } });
  },
  successHandler: () => {},
  errorHandler: (...told) => console.error(...told),
};

const kernels = new KernelManager({ serverSettings });
const running = asked.get("kernel");
const kernel = running
  ? kernels.connectTo({ model: { id: running, name: "python3" } })
  : await kernels.startNew({ name: "python3" });
const manager = new window.vscIPyWidgets.WidgetManager(kernel, document.body, loader, () => {});

async function draw(id) {
  const view = await manager.create_view(await manager.get_model(id));
  await manager.display_view(null, view, { node: document.querySelector("#output") });
}

/** Run code; return what it printed, once it has ended. */
window.run = async (code) => {
  const printed = [];
  const future = kernel.requestExecute({ code });
  future.onIOPub = ({ content }) => {
    const id = content.data?.[WIDGET]?.model_id;
    if (id) {
      window.shown = id;
      draw(id);
    }
    printed.push(content.text ?? content.data?.["text/plain"] ?? content.evalue ?? "");
  };
  await future.done;
  return printed.join("");
};

/** After a reload of the page: draw a widget that the kernel has. */
window.restore = async (id) => {
  await manager._loadFromKernel();
  await draw(id);
};

window.kernel = kernel.id;
