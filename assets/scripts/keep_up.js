// Keeps the address and the list of tasks in step with the choice, and marks the answers as live
// regions. It reads the page, since chained Gradio events get values from before the first one.
() => {
  const chosen = (part) => document.querySelector(`${part} .selected input`)?.value;
  const keepUp = () => {
    const cluster = chosen("#clusters"), task = chosen("#tasks");
    if (!cluster || !task) return;
    for (const card of document.querySelectorAll("#answers > :not([aria-live])")) {
      card.setAttribute("aria-live", "polite");
    }
    const address = new URL(location);
    if (address.searchParams.get("cluster") === cluster
        && address.searchParams.get("task") === task) return;
    address.searchParams.set("cluster", cluster);
    address.searchParams.set("task", task);
    history.replaceState(null, "", address);
    const row = document.querySelector("#tasks label.selected");
    row?.parentElement.scrollTo({ left: row.offsetLeft - 24, top: row.offsetTop - 120 });
  };
  let waiting;
  const soon = () => {
    waiting ??= setTimeout(() => { waiting = undefined; keepUp(); }, 100);
  };
  new MutationObserver(soon).observe(document.getElementById("tabs"), {
    attributeFilter: ["class"], childList: true, subtree: true,
  });
  soon();
}
