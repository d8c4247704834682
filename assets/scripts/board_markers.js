// Plotly drops its listeners on every redraw, and has no event for its end.
() => {
  let left = 20;
  const listen = () => {
    const plot = document.querySelector("#board-plot .js-plotly-plot");
    if (plot?.on) {
      plot.removeAllListeners("plotly_click");
      plot.on("plotly_click", ({ points: [point] }) => {
        const name = /<b>(.*?)<\/b>/.exec(point.hovertext ?? "")?.[1];
        const words = [name, point.data.name, point.y, point.x];
        document.pickOnBoard?.(words.filter((word) => typeof word === "string"));
      });
    }
    if (left--) setTimeout(listen, 200);
  };
  listen();
}
