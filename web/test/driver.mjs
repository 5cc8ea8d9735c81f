// What every script against the page needs: a browser that reports what it must not
// do, and questions to the Go test that runs it (test/browser).
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

export const url = process.env.UVBOND_URL;
const artifacts = process.env.UVBOND_ARTIFACTS;
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** ask lets the Go test do something, and returns its answer. */
export async function ask(what, arg = '') {
  process.stdout.write(`${JSON.stringify({ ask: what, arg })}\n`);
  const { value, done } = await answers.next();
  assert(!done, 'the test is gone');
  const { answer = '', error } = JSON.parse(value);
  assert(!error, `${what}: ${error}`);
  return answer;
}

export const log = (text) => process.stdout.write(`${JSON.stringify({ log: text })}\n`);

/** launch starts Chromium and watches it: no request leaves for anywhere else, and no policy is violated. */
export async function launch(options = {}) {
  const context = await chromium.launchPersistentContext(process.env.UVBOND_PROFILE, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
    viewport: { width: 1280, height: 860 },
    colorScheme: 'light',
    ...options,
  });
  const wrong = [];
  const watched = new WeakSet();
  const watch = (page) => {
    if (watched.has(page)) return;
    watched.add(page);
    page.on('pageerror', (e) => wrong.push(`error in the page: ${e.message}`));
    page.on('console', (m) => {
      const text = m.text();
      if (/Content.Security.Policy|TrustedHTML|TrustedScript|Refused to/i.test(text)) wrong.push(`policy: ${text}`);
    });
    page.on('websocket', (s) => {
      if (!s.url().startsWith(url.replace('http:', 'ws:'))) wrong.push(`WebSocket to ${s.url()}`);
    });
  };
  context.on('request', (r) => {
    if (!r.url().startsWith(`${url}/`) && !r.url().startsWith('data:') && !r.url().startsWith('blob:')) wrong.push(`request to ${r.url()}`);
  });
  context.on('page', watch);
  context.pages().forEach(watch);
  context.setDefaultTimeout(20_000);
  const page = context.pages()[0] ?? (await context.newPage());
  watch(page);
  return { context, page, wrong };
}

/** run executes a script and closes the browser whatever happens. */
export async function run(script, options) {
  const browser = await launch(options);
  let failed = false;
  try {
    await script(browser);
    assert.deepEqual(browser.wrong, [], 'the page did what it must not');
  } catch (e) {
    failed = true;
    console.error(e);
    await shot(browser.page, 'failed').catch(() => {});
    console.error(await browser.page.locator('body').innerText().catch(() => ''));
    if (browser.wrong.length) console.error(browser.wrong);
  }
  await browser.context.close();
  process.exit(failed ? 1 : 0);
}

/** shot keeps a picture of what is shown. */
export async function shot(page, name) {
  mkdirSync(artifacts, { recursive: true });
  await page.screenshot({ path: join(artifacts, `${name}.png`) });
}

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** accessible looks for what keeps people out. Playwright runs axe in the page past its policy. */
export async function accessible(page, where) {
  const { violations } = await page.evaluate(`(() => { if (!window.axe) { ${axe} } return window.axe.run(document, { resultTypes: ['violations'] }); })()`);
  const serious = violations.filter((v) => v.impact === 'serious' || v.impact === 'critical' || v.impact === 'moderate');
  assert.deepEqual(
    serious.map((v) => `${where}: ${v.id}: ${v.help}: ${v.nodes.map((n) => n.target.join(' ')).slice(0, 3).join('; ')}`),
    [],
  );
}
