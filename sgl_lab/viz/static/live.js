/* The page's side of a run: tokens, radix tree and timeline of one cell, live and replayed.
 *
 * Each widget has one Store, which applies the messages of viz/sender.py. Every view of the
 * widget reads the store and paints in requestAnimationFrame. The work is proportional to what
 * changed and to what is visible, not to the size of the run. Model text reaches the page only
 * through text nodes and attributes. The page knows nothing of the kernel except where to send
 * an interrupt. viz/bundle.py joins these files into one module.
 */

import { Mounts, lost } from "./session.js";
import { replay } from "./replay.js";
import { Store } from "./store.js";
import { View } from "./view.js";

export default () => {
  let store;
  return {
    initialize({ model }) {
      store = new Store(model);
      if (!store.options.place) return undefined;
      const mounts = new Mounts(store.options.place, (root) => new View(store, root));
      model.on("comm_live_update", () => mounts.lose(lost(store.options)));
      return () => mounts.close();
    },
    render({ el: root }) {
      const view = new View(store, root);
      return () => view.close();
    },
  };
};

export { replay };
