// Draws an SVG file twice as large and saves it as PNG, which programs for slides and chats take.
(file) => {
  if (!file) return;
  const { name, type, text } = JSON.parse(file);
  const picture = new Image();
  picture.onload = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * picture.width, 2 * picture.height];
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((content) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(content);
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  };
  picture.src = `data:${type};charset=utf-8,${encodeURIComponent(text)}`;
}
