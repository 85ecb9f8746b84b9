// Loads the reference page as a browser would and says what stands on it, as JSON: node reference_page.mjs URL, in the folder
// of the test tools.
import { createRequire } from 'node:module';

const { JSDOM, VirtualConsole } = createRequire(`${process.cwd()}/`)('jsdom');

const url = process.argv[2];
const errors = [];
const virtualConsole = new VirtualConsole();
virtualConsole.on('jsdomError', (error) => errors.push(String(error.detail ?? error)));
const { window } = await JSDOM.fromURL(url, {
  runScripts: 'dangerously',
  virtualConsole,
  beforeParse: (window) => { window.fetch = (path) => fetch(new URL(path, url)); },
});
const { document } = window;
const deadline = Date.now() + 10_000;
while (!document.querySelector('details') && Date.now() < deadline) await new Promise((done) => setTimeout(done, 20));

const ids = (selector) => [...document.querySelectorAll(selector)].map((element) => element.id);
const all = ids('details');
const links = [...document.querySelectorAll('a[href^="#"]')].map((link) => decodeURIComponent(link.hash.slice(1)));
const find = document.getElementById('find');
find.value = 'caused_by';
find.dispatchEvent(new window.Event('input'));
console.log(JSON.stringify({
  title: document.getElementById('title').textContent,
  operations: all.filter((id) => !id.startsWith('schema-')),
  schemas: all.filter((id) => id.startsWith('schema-')).map((id) => id.slice('schema-'.length)),
  dead_links: links.filter((id) => !document.getElementById(id)),
  found: ids('details:not([hidden])'),
  errors,
}));
