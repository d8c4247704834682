// A slider's `release` event covers the pointer, not the keyboard.
() => {
  document.addEventListener("keyup", (event) => {
    const slider = event.target;
    if (slider.type === "range" && slider.closest("#gates-sliders")) {
      slider.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
    }
  });
}
