// Decides what keys and the theme do on any page; what each key means is in `KEYS` of the page.

// An entry of KEYS: names of the key, what to call it, what it does in words, the action.
function onKey(event) {
  const tag = event.target.tagName;
  const isTyping = tag === "SELECT" || (tag === "INPUT" && event.target.type !== "checkbox") || document.querySelector("dialog[open]");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if ([" ", "Enter"].includes(event.key) && (tag === "BUTTON" || tag === "INPUT")) return;
  const key = KEYS.find(([names]) => names.includes(event.key));
  if (key) {
    event.preventDefault();
    key[3]();
  }
}

function toggleTheme() {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = document.documentElement.dataset.theme ?? (isDark ? "dark" : "light");
  document.documentElement.dataset.theme = theme === "dark" ? "light" : "dark";
}
