"""Scripts that the browser runs in the leaderboard's tab."""

# Cells and headers are buttons with data attributes. Markers of a chart report their names through
# `document.pickOnBoard`, since plotly's clicks are not events of the page.
ON_CLICK = """
element.addEventListener("click", (click) => {
  const button = click.target.closest("[data-sort], [data-entry]");
  if (button) trigger("select", { ...button.dataset });
});
document.pickOnBoard = (words) => trigger("select", { words });
"""

# Plotly drops its listeners on every redraw, and has no event for its end.
LISTEN = """() => {
  let left = 20;
  const listen = () => {
    const plot = document.querySelector("#board-plot .js-plotly-plot");
    if (plot?.on) {
      plot.removeAllListeners("plotly_click");
      plot.on("plotly_click", ({ points: [point] }) => {
        const name = /<b>(.*?)<\\/b>/.exec(point.hovertext ?? "")?.[1];
        const words = [name, point.data.name, point.y, point.x];
        document.pickOnBoard?.(words.filter((word) => typeof word === "string"));
      });
    }
    if (left--) setTimeout(listen, 200);
  };
  listen();
}"""
GO_TO_SAMPLES = """() => {
  if (document.activeElement?.dataset.sort) return;
  setTimeout(() => {
    const heading = document.querySelector("#board-samples h2");
    heading?.focus({ preventScroll: true });
    heading?.scrollIntoView({ behavior: "smooth", block: "start" });
  }, 100);
}"""
GO_TO_TOP = """() => document.getElementById("samples-list")?.scrollIntoView({ block: "start" })"""
GO_BACK = """() => document.querySelector("#board-table [aria-current]")?.focus()"""
# The server writes no file, which others could fetch.
SAVE = """(file) => {
  if (!file) return;
  const { name, type, text } = JSON.parse(file);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""
