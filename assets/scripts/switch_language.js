(name) => {
  const address = new URL(location);
  address.searchParams.set("lang", name === "English" ? "en" : "zh");
  location.assign(address);
}
