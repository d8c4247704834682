// Shows the explanation of the chosen part; the address holds the choice.
const show = () => {
  const wanted = new URL(location).searchParams.get("about-part");
  const parts = [...element.querySelectorAll(".part input")];
  const chosen = parts.find((part) => part.value === wanted)
    || parts.find((part) => part.value === "sum");
  if (chosen) chosen.checked = true;
  for (const panel of element.querySelectorAll("[data-part]")) {
    panel.hidden = panel.dataset.part !== chosen.value;
  }
};
element.addEventListener("change", (event) => {
  const address = new URL(location);
  address.searchParams.set("about-part", event.target.value);
  history.replaceState(null, "", address);
  show();
});
new MutationObserver(show).observe(element, { childList: true, subtree: true });
show();
