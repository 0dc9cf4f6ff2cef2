// What of the page somebody could not read or use, by the rules of WCAG 2.2 that can be checked by a program: names
// (4.1.2, 1.1.1), contrast (1.4.3), structure (1.3.1), language (3.1.1), zoom (1.4.4), reflow (1.4.10), focus (2.1.1).
const faults = [];
const fault = (what, element) => faults.push(`${what}: ${element ? element.outerHTML.slice(0, 120) : ""}`);
const all = (selector) => [...document.querySelectorAll(selector)];
const named = (element) => Boolean(
  element.getAttribute("aria-label") || element.textContent.trim() || element.getAttribute("title")
  || (element.getAttribute("aria-labelledby") && document.getElementById(element.getAttribute("aria-labelledby"))),
);

if (!document.documentElement.lang) fault("no language");
if (!document.title) fault("no title");
const viewport = document.querySelector("meta[name=viewport]");
if (!viewport || /user-scalable=no|maximum-scale/.test(viewport.content)) fault("no zoom", viewport);
if (all("main").length !== 1 || all("h1").length !== 1) fault("not one main part and one title");
let level = 0;
for (const heading of all("h1, h2, h3, h4")) {
  if (Number(heading.tagName[1]) > level + 1) fault("a level of headings is left out", heading);
  level = Number(heading.tagName[1]);
}
const ids = all("[id]").map((element) => element.id);
if (new Set(ids).size !== ids.length) fault("two elements have one id");
for (const element of all("a, button, meter, section, [role=img], [role=region], canvas")) {
  if (element.getAttribute("aria-hidden") !== "true" && !named(element)) fault("no name", element);
}
for (const table of all("table")) {
  const heads = [...table.querySelectorAll("th")];
  if (!heads.length || heads.some((head) => !head.scope || !head.textContent.trim())) fault("a heading without scope or text", table);
}
for (const element of all("*")) {
  const style = getComputedStyle(element);
  const scrolls = /auto|scroll/.test(style.overflowX) && element.scrollWidth > element.clientWidth;
  if (scrolls && element.tabIndex < 0) fault("what scrolls cannot be focused", element);
}
if (document.documentElement.scrollWidth > document.documentElement.clientWidth) fault("the page scrolls sideways");

const numbers = (color) => color.match(/[\d.]+/g).map(Number);
const luminance = ([red, green, blue]) => {
  const part = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  return 0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue);
};
const ground = (element) => {
  for (let place = element; place; place = place.parentElement) {
    const color = numbers(getComputedStyle(place).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
  return [255, 255, 255];
};
for (const element of all("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  if (!own || !element.getClientRects().length) continue;
  const [text, behind] = [luminance(numbers(getComputedStyle(element).color)), luminance(ground(element))];
  const contrast = (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
  if (contrast < 4.5) fault(`a contrast of ${contrast.toFixed(2)}`, element);
}
return faults;
