// Cells and headers are buttons with data attributes. Markers of a chart report their names through
// `document.pickOnBoard`, since plotly's clicks are not events of the page.
element.addEventListener("click", (click) => {
  const button = click.target.closest("[data-sort], [data-entry]");
  if (button) trigger("select", { ...button.dataset });
});
document.pickOnBoard = (words) => trigger("select", { words });
