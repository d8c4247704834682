(otherLanguage) => {
  document.documentElement.lang = otherLanguage === "English" ? "zh-CN" : "en";
  document.documentElement.dataset.opened = "yes";
  // Gradio labels the "select all" box by a title alone, which screen readers may skip.
  new MutationObserver(() => {
    for (const box of document.querySelectorAll(".select-all-checkbox:not([aria-label])")) {
      box.setAttribute("aria-label", box.title);
    }
  }).observe(document.body, { childList: true, subtree: true });
}
