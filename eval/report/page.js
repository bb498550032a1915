// The page reads without it: it picks the reader's language, and shows only the cases with a text.
const choices = document.querySelectorAll("input[name=language]");
const name = (choice) => { document.documentElement.lang = choice.value; };
for (const choice of choices) {
  choice.addEventListener("change", () => name(choice));
  if (navigator.language.startsWith(choice.value)) choice.checked = true;
  if (choice.checked) name(choice);
}
for (const filter of document.querySelectorAll(".filter")) {
  filter.hidden = false;
  filter.querySelector("input").addEventListener("input", ({ target }) => {
    for (const example of filter.parentElement.querySelectorAll("article")) {
      example.hidden = !example.textContent.toLowerCase().includes(target.value.trim().toLowerCase());
    }
  });
}
