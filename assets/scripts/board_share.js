// Without a secure context there is no clipboard; then the browser shows the address to copy.
element.addEventListener("click", async (event) => {
  const button = event.target.closest("#board-share");
  if (!button) return;
  const address = document.boardAddress();
  try {
    await navigator.clipboard.writeText(address);
  } catch {
    window.prompt(button.dataset.byHand, address);
    return;
  }
  button.textContent = button.dataset.shared;
  setTimeout(() => { button.textContent = button.dataset.shares; }, 2000);
});
// The address of the view and its samples, without the choices of other tabs.
document.boardAddress = () => {
  const now = new URLSearchParams(location.search);
  const address = new URL(location.pathname, location.origin);
  const fields = JSON.parse(document.getElementById("board-share").dataset.address);
  for (const [name, value] of Object.entries(fields)) {
    if (value) address.searchParams.set(name, value);
  }
  for (const [name, value] of now) {
    const isOfSamples = name.startsWith("board-") && !(name in fields);
    if (isOfSamples && now.get("board-entry")) address.searchParams.set(name, value);
  }
  return address.href;
};
