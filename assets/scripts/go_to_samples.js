() => {
  if (document.activeElement?.dataset.sort) return;
  setTimeout(() => {
    const heading = document.querySelector("#board-samples h2");
    heading?.focus({ preventScroll: true });
    heading?.scrollIntoView({ behavior: "smooth", block: "start" });
  }, 100);
}
