"""What the browser does in the leaderboard's tab by itself."""

# Cells and headers are buttons that say what they stand for. A picture's marks do so through
# `document.pickOnBoard`, since plotly's clicks are no events of the page.
ON_CLICK = """
element.addEventListener("click", (click) => {
  const button = click.target.closest("[data-sort], [data-entry]");
  if (button) trigger("select", { ...button.dataset });
});
document.pickOnBoard = (words) => trigger("select", { words });
"""

# Plotly drops its listeners whenever it draws anew, and says nothing when it has.
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
# No file is written on the server, which could be fetched by others.
SAVE = """(file) => {
  if (!file) return;
  const { name, type, text } = JSON.parse(file);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""
