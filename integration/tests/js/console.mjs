// The operators' page, as one meets it who has only a keyboard: node console.mjs URL TOKEN DIRECTORY-FOR-PICTURES, at a node alone;
// with PID as a fourth word, at the first of three nodes of which that process is the last.
import puppeteer from 'puppeteer-core';

const [url, token, pictures, last] = process.argv.slice(2);
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM,
  args: ['--no-sandbox', '--disable-gpu'],
});
const errors = [];
const requests = [];
const page = await browser.newPage();
page.on('console', message => message.type() === 'error' && errors.push(message.text()));
page.on('pageerror', error => errors.push(String(error)));
page.on('request', request => requests.push(request.url()));
const text = selector => page.$eval(selector, e => e.textContent);
const until = (what, ...given) => page.waitForFunction(what, { timeout: 30000 }, ...given);
const has = (selector, part) =>
  until((s, p) => document.querySelector(s)?.textContent.includes(p), selector, part);
const picture = name => page.screenshot({ path: `${pictures}/${name}.png` });
const check = (is, what) => {
  if (!is) throw new Error(what);
};

// On a small screen nothing is wider than it, neither the page nor a table.
const small = async (names, of) => {
  await page.setViewport({ width: 360, height: 740 });
  for (const name of names) {
    await page.click(`#tab-${name}`);
    await until(n => !document.getElementById(n).hidden, name);
    const wide = await page.evaluate(n => {
      const all = [document.documentElement, ...document.querySelectorAll(`#${n}, #${n} .scroll, #${n} .panel`)];
      return all.filter(e => e.scrollWidth > e.clientWidth).map(e => `${e.tagName} ${e.id}${e.className}: ${e.scrollWidth}`);
    }, name);
    check(wide.length === 0, `${name} is too wide for a small screen: ${wide}`);
    await page.screenshot({ path: `${pictures}/${of}${name}-small.png`, fullPage: true });
  }
};

// All nodes' cores, asked at one of them, also when one of the others is gone.
const cluster = async () => {
  await page.setViewport({ width: 1280, height: 860 });
  await page.goto(`${url}/_/console#cluster`);
  await until(() => document.querySelectorAll('#map .node').length === 3);
  const cores = () => page.$$eval('#map .node', nodes => nodes.map(n => n.querySelectorAll('.core').length));
  check(String(await cores()) === '2,1,2', `cores of the nodes: ${await cores()}`);
  await until(() => [...document.querySelectorAll('#map .head')].every(h => /\d req\/s/.test(h.textContent)));
  check((await page.$$('#map .cell')).length === 15, 'each group on each node');
  check((await page.$$('#map .cell.lead')).length === 5, 'each group has a leader');
  await picture('nodes');
  process.kill(Number(last), 'SIGKILL');
  await until(() => /no answer/.test(document.querySelectorAll('#map .node')[2].textContent));
  await has('#nodes', 'no answer');
  check(/^3/.test(await text('#nodes tr:last-child')), 'a node that is gone still has its number');
  await until(() => document.querySelectorAll('#map .node:last-child .cell.bad').length > 0);
  await picture('nodes-one-gone');
  await small(['cluster'], 'nodes-');
};

// One node, whose streams one reads and writes.
const alone = async () => {
  await page.setViewport({ width: 1280, height: 860 });
  for (const colours of ['light', 'dark']) {
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: colours }]);
    await page.goto(`${url}/_/console`);
    await has('#health', 'ready');
    await until(() => document.querySelectorAll('#cores tr').length === 2);
    await until(() => /301/.test(document.querySelector('#tiles').textContent));
    check(/no other node/.test(await text('#tiles')), 'a node alone has no replica that is behind');
    // Somebody appends all the time.
    await until(() => document.querySelector('#rate-chart path'));
    await until(() => /^[1-9]/.test(document.querySelector('#rate-now').textContent));
    await until(() => /^[\d.]+ [mµ]?s, at most [\d.]+ [mµ]?s/.test(document.querySelector('#late-now').textContent));
    // A line has some points: waited for once.
    if (colours === 'light') {
      await until(() => document.querySelector('#late-chart path.l').getAttribute('d').split('L').length >= 4);
    }
    await until(() => [...document.querySelectorAll('#stages tr')].filter(row => /\d [mµ]?s/.test(row.textContent)).length >= 2);
    await picture(`overview-${colours}`);
    await page.keyboard.press('2');
    await until(() => document.querySelectorAll('#map .cell').length === 17);
    await picture(`cluster-${colours}`);
    await page.keyboard.press('4');
    await has('#setting-rows', 'flag --core-count');
    await picture(`settings-${colours}`);
    await page.keyboard.press('/');
    await page.keyboard.type('long_poll');
    await until(() => document.querySelectorAll('#setting-rows tr').length === 1);
    await page.focus('#tab-settings');
    await page.keyboard.press('ArrowLeft');
    check((await page.$eval('#tab-streams', e => e === document.activeElement)), 'arrows move the focus');
    await picture(`focus-${colours}`);
  }

  // Without the token nothing can be changed; a long list is cut.
  check(await page.$eval('#append-go', e => e.disabled), 'append is off without the token');
  await has('#found', 'and more');
  await page.keyboard.press('/');
  await page.keyboard.type('chat');
  await page.keyboard.press('Enter');
  await has('#found', '1 found');
  await page.focus('#list button');
  await page.keyboard.press('Enter');
  await has('#tail', 'before');

  await page.focus('#token-open');
  await page.keyboard.press('Enter');
  await page.keyboard.type(token);
  await page.keyboard.press('Enter');
  await has('#token-open', 'Can change');
  await page.focus('#live');
  await page.keyboard.press('Enter');
  await has('#live', 'Stop');
  await page.focus('#append-text');
  await page.keyboard.type('{"say":"from the console"}');
  await page.keyboard.down('Control');
  await page.keyboard.press('Enter');
  await page.keyboard.up('Control');
  await has('#one-said', 'Appended');
  await has('#tail', 'from the console');
  await picture('streams-dark');
  await small(['overview', 'cluster', 'streams', 'settings'], '');
};

try {
  await (last ? cluster() : alone());
  check(requests.every(r => r.startsWith(url) || r.startsWith('data:')), `asked elsewhere: ${requests}`);
  check(errors.length === 0, errors.join('\n'));
  console.log('all good');
} catch (error) {
  console.log(error.stack, '\nerrors:', errors, '\nhealth:', await text('#health').catch(() => ''));
  process.exitCode = 1;
} finally {
  await browser.close();
}
