// The page with the three programs and a real guest behind it.
import assert from 'node:assert/strict';
import { accessible, ask, log, run, shot, url } from './driver.mjs';

const boot = { timeout: 180_000 };

await run(async ({ page, context }) => {
  const seen = async (name) => {
    await shot(page, `real-${name}`);
    await accessible(page, name);
  };

  // Log in; a second use of the link is refused, another link works.
  const link = await ask('link');
  await page.goto(link);
  await page.getByRole('heading', { name: 'Machines' }).waitFor();
  const other = await context.newPage();
  await other.goto(link);
  await other.getByText('this link was used before').waitFor();
  await other.close();
  const more = await ask('another');
  assert(more.startsWith(`${url}/#once=`) && more !== link);

  // Start the VM, and see the automaton go its way. That may be over before this script
  // looks, so the page itself notes what it showed.
  await page.getByRole('main').getByRole('link', { name: 'web1' }).click();
  await page.getByRole('button', { name: 'Start' }).waitFor();
  await page.evaluate(() => {
    window.shown = new Set();
    new MutationObserver(() => {
      if (document.body.innerText.includes('unverified until the receipt comes')) window.shown.add('unverified');
      for (const c of document.querySelectorAll('.calls code')) window.shown.add(c.textContent.trim());
      if (document.querySelector('.calls') && document.querySelector('.drawing .passed')) window.shown.add('a step');
    }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
  });
  await page.getByRole('button', { name: 'Start' }).click();
  await shot(page, 'real-live');
  await page.getByText('Start of web1 is done; its state is running').first().waitFor(boot);
  await page.getByText(/verified by receipt [0-9a-f]{12} of start/).first().waitFor();
  const shown = await page.evaluate(() => [...window.shown]);
  for (const what of ['unverified', 'uvbond-launch', 'a step']) assert(shown.includes(what), `${what} was not shown live, only ${shown}`);
  const done = await page.locator('.calls-table code:not(.args)').allInnerTexts();
  assert.deepEqual(done.slice(0, 3), ['uvbond-launch', 'cont', 'query-status']);
  assert.equal(await page.locator('.drawing .refused').count(), 0, 'the receipt is not a way through the automaton');
  assert((await page.locator('.drawing .passed').count()) >= 2);
  await page.getByText('The server says: running').waitFor();
  await seen('started');

  // The terminal, from the firmware on. Type, and read the answer.
  await page.getByRole('link', { name: 'Terminal' }).click();
  await page.getByText('attached, sealed end to end').waitFor();
  const rows = page.locator('.xterm-rows');
  await rows.getByText(/UVBOND-TERMINAL ttyS0|tick \d/).first().waitFor(boot);
  await page.getByText('you write').waitFor();
  await page.keyboard.press('Enter');
  await rows.getByText('guest#').first().waitFor(boot);
  await page.keyboard.type('echo "The answer is $((6*7))"; uname -sr', { delay: 15 });
  await page.keyboard.press('Enter');
  await rows.getByText('The answer is 42').waitFor(boot);
  await seen('terminal');

  // The screen.
  await page.getByRole('link', { name: 'Screen' }).click();
  await page.getByText('connected, sealed end to end').waitFor();
  const lit = () =>
    page.locator('.screen canvas').evaluate((c) => {
      const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
      let n = 0;
      for (let i = 0; i < data.length; i += 4) if (data[i] + data[i + 1] + data[i + 2] > 200) n++;
      return n;
    });
  for (let i = 0; (await lit()) < 1000; i++) {
    assert(i < 300, `only ${await lit()} pixels of the screen are lit`);
    await page.waitForTimeout(100);
  }
  await page.locator('.screen canvas').click();
  await page.keyboard.press('Enter');
  const before = await lit();
  await page.keyboard.type('uname -a; id; ls /', { delay: 30 });
  await page.keyboard.press('Enter');
  for (let i = 0; (await lit()) === before; i++) {
    assert(i < 600, 'the screen does not change');
    await page.waitForTimeout(100);
  }
  await page.waitForTimeout(1000);
  await seen('screen');

  // An operator takes a screenshot: refused, and it appears.
  await page.getByRole('link', { name: 'Time line' }).click();
  await page.getByRole('heading', { name: 'The chain is whole' }).waitFor(boot);
  assert.equal(await page.locator('.attack').count(), 0);
  await ask('operator');
  await page.getByRole('button', { name: 'Check now' }).click();
  await page.locator('.attack').getByText('screendump refused: never allowed: the screen belongs to the owner').waitFor(boot);
  assert.equal(await page.locator('.attack').count(), 1, 'one attempt is one line');
  assert((await page.locator('.timeline .title').allInnerTexts()).every((text) => text.trim() !== ''), 'a line says nothing');
  await seen('timeline');
  for (const theme of ['dark', 'light']) {
    await page.getByRole('radio', { name: theme }).check({ force: true });
    await page.waitForTimeout(200);
    await seen(`timeline-${theme}`);
  }
  await page.getByRole('link', { name: 'Access' }).click();
  await page.getByText("look at the VM's run state").waitFor();
  await seen('access');

  // Pause and power off, with the keyboard alone.
  await page.keyboard.press('g');
  await page.keyboard.press('o');
  await page.getByRole('button', { name: 'Pause' }).focus();
  await page.keyboard.press('Enter');
  await page.getByText('Pause of web1 is done; its state is paused').first().waitFor(boot);
  await seen('paused');
  await page.getByRole('button', { name: 'Power off' }).focus();
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').getByRole('button', { name: 'Power off' }).focus();
  await page.keyboard.press('Enter');
  await page.getByText('Poweroff of web1 is done').first().waitFor(boot);
  await page.goto(`${url}/#/`);
  await page.locator('.cards').getByText('stopped').first().waitFor();
  await seen('list');
  log('the page does what it should with a real guest');
});
