(otherLanguage) => {
  document.documentElement.lang = otherLanguage === "English" ? "zh-CN" : "en";
  document.documentElement.dataset.opened = "yes";
  // Gradio labels the "select all" box by a title alone, which screen readers may skip.
  new MutationObserver(() => {
    for (const box of document.querySelectorAll(".select-all-checkbox:not([aria-label])")) {
      box.setAttribute("aria-label", box.title);
    }
    // Gradio names the button of an upload by other words than those on it.
    for (const button of document.querySelectorAll(".upload-container[aria-label]")) {
      button.removeAttribute("aria-label");
    }
  }).observe(document.body, { childList: true, subtree: true });
}
