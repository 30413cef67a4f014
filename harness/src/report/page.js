// The page is complete without this: it only hides settings, and opens the layer that a link leads to.
(() => {
  const box = document.querySelector(".settings");
  const names = box.dataset.settings.split(";").map((pair) => pair.split("="));
  const show = (key) => {
    for (const part of document.querySelectorAll(".of"))
      part.classList.toggle("off", key !== "" && part.dataset.setting !== key);
    for (const button of box.children) button.setAttribute("aria-pressed", String(button.value === key));
  };
  if (names.length > 1) {
    for (const [key, name] of [["", "all"], ...names]) {
      const button = document.createElement("button");
      button.value = key;
      button.textContent = name;
      button.addEventListener("click", () => show(key));
      box.append(button);
    }
    box.hidden = false;
    show("");
  }
  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") {
      target.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", open);
  // A link to where the page already is does not change the hash.
  for (const link of document.querySelectorAll('a[href^="#layer-"]')) link.addEventListener("click", () => setTimeout(open));
  open();
})();
