// The operators' page, as one meets it who has only a keyboard: node console.mjs URL TOKEN DIRECTORY-FOR-PICTURES
import puppeteer from 'puppeteer-core';

const [url, token, pictures] = process.argv.slice(2);
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

try {
  await page.setViewport({ width: 1280, height: 860 });
  for (const colours of ['light', 'dark']) {
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: colours }]);
    await page.goto(`${url}/_/console`);
    await has('#health', 'ready');
    await until(() => document.querySelectorAll('#cores tr').length === 2);
    await until(() => /301/.test(document.querySelector('#tiles').textContent));
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

  for (const name of ['overview', 'cluster', 'streams', 'settings']) {
    await page.setViewport({ width: 360, height: 740 });
    await page.click(`#tab-${name}`);
    await until(n => !document.getElementById(n).hidden, name);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    check(wide <= 0, `${name} is ${wide} pixels too wide for a small screen`);
    await picture(`${name}-small`);
  }
  check(requests.every(r => r.startsWith(url) || r.startsWith('data:')), `asked elsewhere: ${requests}`);
  check(errors.length === 0, errors.join('\n'));
  console.log('all good');
} catch (error) {
  console.log(error.stack, '\nerrors:', errors, '\nhealth:', await text('#health').catch(() => ''));
  process.exitCode = 1;
} finally {
  await browser.close();
}
