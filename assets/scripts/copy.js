// Without a secure context there is no clipboard; then the text is selected instead.
element.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copies]");
  if (!button) return;
  const text = button.parentElement.querySelector("pre");
  let label = button.dataset.copied;
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch {
    getSelection().selectAllChildren(text);
    label = button.dataset.selected;
  }
  button.textContent = label;
  setTimeout(() => { button.textContent = button.dataset.copies; }, 2000);
});
