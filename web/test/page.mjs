// The page against a fake host: every view, dark and light, wide and narrow, with the
// keyboard alone.
import assert from 'node:assert/strict';
import { accessible, ask, log, run, shot, url } from './driver.mjs';

await run(async ({ page, context }) => {
  const seen = async (name) => {
    await shot(page, name);
    await accessible(page, name);
  };

  // First run: a guide. The link works once.
  const link = await ask('link');
  await page.goto(link);
  await page.getByRole('heading', { name: 'Welcome' }).waitFor();
  assert.equal(new URL(page.url()).hash, '', 'the token stays in the address');
  await page.getByText('none is pinned').waitFor();
  await seen('guide');
  const other = await context.newPage();
  await other.goto(link);
  await other.getByText('this link was used before').waitFor();
  await accessible(other, 'log in');
  await other.goto(url); // the session is the browser's: another tab has it too
  await other.getByRole('heading', { name: 'Welcome' }).waitFor();

  await ask('vms');
  await page.getByRole('heading', { name: 'web1' }).waitFor();
  await page.getByText('The server says: stopped').first().waitFor();
  await seen('list');

  // Start it and watch.
  await page.getByRole('heading', { name: 'web1' }).getByRole('link').click();
  await ask('hold');
  await page.getByRole('button', { name: 'Start' }).click();
  await page.getByText('unverified until the receipt comes').waitFor();
  await page.getByText('uvbond-launch').first().waitFor();
  await page.locator('.drawing .passed').first().waitFor({ state: 'attached' }); // a straight line has no width
  await seen('live');
  await other.goto(`${url}/#/vms/web1`);
  await other.getByText('start is running, begun elsewhere').waitFor();
  await ask('release');
  await page.getByText('Start of web1 is done; its state is running').first().waitFor();
  await page.getByText(/verified by receipt [0-9a-f]{12}/).first().waitFor();
  await seen('started');
  assert.deepEqual(await page.locator('.calls-table code:not(.args)').allInnerTexts(), ['uvbond-launch', 'cont', 'query-status']);
  await page.getByText('Show its text').click();
  await page.locator('.course pre').getByText('automaton start =').waitFor();
  await other.getByText(/verified by receipt [0-9a-f]{12}/).first().waitFor();

  // A server that claims success and shows no receipt is not believed.
  await ask('evil', 'no-receipt');
  await page.getByRole('button', { name: 'Pause' }).click();
  await page.getByRole('alert').getByText('no receipt: it is not known whether pause was executed').waitFor();
  await page.locator('.verified').getByText('running').waitFor();
  await seen('no-receipt');
  await ask('evil', '');

  // An operator tries something.
  await ask('tried', 'screendump');
  await page.getByRole('link', { name: 'Time line' }).click();
  await page.locator('.attack').getByText('screendump refused: never allowed').waitFor();
  await page.getByRole('heading', { name: 'The chain is whole' }).waitFor();
  await seen('timeline');
  // The next one appears by itself, and is said. Filters work by the keyboard alone.
  await ask('tried', 'send-key');
  await page.locator('.attack').getByText('send-key refused').waitFor();
  await page.locator('#announcer').getByText('Attempt refused: send-key refused').waitFor({ state: 'attached' });
  const lines = page.locator('.timeline > li');
  await page.getByRole('radio', { name: 'Everything' }).focus();
  await page.keyboard.press('ArrowRight');
  await page.locator('.timeline:not(:has(.owner))').waitFor();
  assert.equal(await lines.count(), 2);
  await page.keyboard.press('ArrowRight');
  await page.locator('.timeline:not(:has(.attack))').waitFor();
  assert((await lines.count()) > 2);
  // A long log is shown in parts.
  await ask('many', '230');
  await page.keyboard.press('ArrowLeft');
  await page.getByRole('button', { name: 'Check now' }).click();
  await page.getByRole('button', { name: 'Show 100 older, of 132 lines' }).focus();
  assert.equal(await lines.count(), 100);
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'Show 32 older, of 32 lines' }).waitFor();
  assert.equal(await lines.count(), 200);
  assert(await lines.nth(100).evaluate((e) => e.contains(document.activeElement)), 'the keyboard does not go on where the older lines begin');

  // Access: delegations are taken back from here, with a question.
  await ask('delegate', 'bob');
  await page.getByRole('link', { name: 'Access' }).click();
  await page.getByText('at most 3 times in any day').first().waitFor();
  await seen('access');
  await page.getByRole('button', { name: 'Take it back from bob' }).click();
  await page.getByRole('dialog').getByText('bob cannot use status, reset on web1 any more').waitFor();
  await accessible(page, 'question about a delegation');
  await page.keyboard.press('Enter'); // it leaves all as it is
  await page.getByRole('dialog').waitFor({ state: 'hidden' });
  await page.locator('button:focus', { hasText: 'Take it back' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Take it back' }).click();
  await page.getByText('What bob could do is taken back.').waitFor();
  await page.getByText('not in force').waitFor();
  assert.equal(await page.evaluate(() => document.activeElement?.id), 'delegates-title', 'the keyboard is lost with the button');

  // Terminal: what was printed before, typing, the key that leaves.
  await page.getByRole('link', { name: 'Terminal' }).click();
  await page.getByText('attached, sealed end to end').waitFor();
  await page.getByText('you write').waitFor();
  const rows = page.locator('.xterm-rows');
  await rows.getByText('uvbond guest is up').waitFor();
  await page.keyboard.type('echo hello ?gl', { delay: 5 });
  await page.keyboard.press('Enter');
  await rows.getByText('ECHO HELLO ?GL').waitFor(); // and the page's own keys did nothing
  assert.equal(await ask('typed'), 'echo hello ?gl\r', 'old questions were answered');
  await seen('terminal');
  // A clipboard's control characters are not typed, also not those that end a bracketed
  // paste; a link that the guest prints leads nowhere.
  await ask('print', '\x1b[?2004hready \x1b]8;;http://192.0.2.1/?seen\x1b\\here\x1b]8;;\x1b\\\r\n');
  await rows.getByText('ready here').waitFor();
  await page.locator('.xterm-helper-textarea').evaluate((e) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData('text/plain', 'a\x1b[201~b\x03\x9bc\td');
    e.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }));
  });
  await rows.getByText('A[201~BC').waitFor();
  assert.equal(await ask('typed'), 'echo hello ?gl\r\x1b[200~a[201~bc\td\x1b[201~');
  let dialogs = 0;
  page.on('dialog', (d) => void (dialogs++, d.dismiss()));
  const link8 = await rows.getByText('ready here').boundingBox();
  await page.mouse.move(link8.x + 70, link8.y + 5);
  await page.mouse.move(link8.x + 72, link8.y + 6);
  await page.mouse.down();
  await page.mouse.up();
  await page.getByText('Links of the guest are not opened here: http://192.0.2.1/?seen').waitFor();
  assert.equal(dialogs, 0);
  await ask('cut');
  await page.getByText('attached, sealed end to end').waitFor();
  await page.keyboard.type('again');
  await rows.getByText('AGAIN').waitFor();
  // What is selected is copied; Ctrl+C stays the guest's.
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  await ask('print', '\r\n\x1b[38;2;255;128;0mtangerine\x1b[0m \x1b[38;2;17;22;29mfaint\x1b[0m\r\n');
  await rows.getByText('faint').waitFor();
  const colour = (text) => rows.getByText(text, { exact: true }).evaluate((e) => getComputedStyle(e).color);
  assert.equal(await colour('tangerine'), 'rgb(255, 128, 0)');
  assert.notEqual(await colour('faint'), 'rgb(17, 22, 29)', 'text cannot be told from what is behind it');
  await rows.getByText('tangerine').dblclick({ force: true });
  await page.keyboard.press('Control+Shift+C');
  await page.locator('#announcer').getByText('Copied').waitFor({ state: 'attached' });
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /tangerine/);
  // The key that leaves leads to the controls, and Tab goes on from there.
  await page.keyboard.press('Control+Shift+ArrowUp');
  await page.locator('.bar:focus').waitFor();
  await page.keyboard.press('Tab');
  await page.locator('.bar button:focus').waitFor();

  // Screen.
  await page.getByRole('link', { name: 'Screen' }).click();
  await page.getByText('connected, sealed end to end').waitFor();
  const lit = () =>
    page.locator('.screen canvas').evaluate((c) => {
      const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
      return data.some((b, i) => i % 4 === 1 && b === 0x90);
    });
  for (let i = 0; !(await lit()); i++) {
    assert(i < 100, 'the screen stays dark');
    await page.waitForTimeout(50);
  }
  await page.locator('.screen canvas').click();
  await page.keyboard.press('a');
  await ask('pressed', 'a');
  await seen('screen');

  // Only look: also on a connection that is made later.
  await page.getByLabel('only look').check();
  const dials = Number(await ask('dials', 'screen'));
  await ask('cut');
  await ask('dialed', `screen ${dials + 1}`); // it comes back by itself
  await page.getByText('connected, sealed end to end').waitFor();
  await page.locator('.screen canvas').click();
  await page.keyboard.press('b');
  await page.getByLabel('only look').uncheck();
  await page.getByLabel('fit into the window').focus();
  await page.keyboard.press('Tab');
  await page.locator('canvas:focus').waitFor();
  await page.keyboard.press('c');
  await ask('pressed', 'c');
  assert.equal(await ask('keys'), '[97 99]', 'a, then c');
  await page.keyboard.press('Control+Shift+ArrowUp');
  await page.locator('.bar:focus').waitFor();
  await page.getByRole('button', { name: 'Type a text' }).click();
  await page.getByRole('dialog').getByRole('textbox').fill('Z\u00e9\n');
  await accessible(page, 'text to type');
  await page.getByRole('button', { name: 'Type it' }).click();
  await page.locator('#announcer').getByText('Typed, without 1 character').waitFor({ state: 'attached' });
  await ask('pressed', '\r');

  // A link that somebody made badly shows that there is no such machine.
  await page.goto(`${url}/#/vms/%`);
  await page.getByText('There is no machine %').waitFor();

  // Every view dark, then narrow.
  const views = { '': 'Registration', '/timeline': 'The chain is whole', '/terminal': 'attached, sealed end to end', '/screen': 'connected, sealed end to end', '/access': 'Whom you delegated to' };
  const everyView = async (look) => {
    const pages = [['#/', 'Machines', 'list'], ['#/guide', 'none is pinned', 'guide']];
    for (const [view, text] of Object.entries(views)) pages.push([`#/vms/web1${view}`, text, view.slice(1) || 'overview']);
    for (const [address, text, name] of pages) {
      await page.goto(`${url}/${address}`);
      await page.getByText(text).first().waitFor();
      await seen(`${name}-${look}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert(wide <= 0, `${name} is ${wide} pixels too wide`);
    }
  };
  await page.getByRole('radio', { name: 'dark' }).check({ force: true });
  await everyView('dark');
  await page.setViewportSize({ width: 390, height: 800 });
  await page.getByRole('button', { name: 'Menu' }).click();
  await seen('menu');
  await page.getByRole('radio', { name: 'light' }).check({ force: true });
  await page.getByRole('link', { name: 'Guide and doctor' }).click(); // and the menu is gone again
  await page.getByRole('radio', { name: 'light' }).waitFor({ state: 'hidden' });
  await everyView('narrow');
  await page.goto(`${url}/#/vms/web1`);
  await page.getByText(/paused since .*\d\d:\d\d.*, as far as receipts tell/).waitFor();
  await page.setViewportSize({ width: 1280, height: 860 });
  await page.getByRole('radio', { name: 'Auto' }).check({ force: true });
  await page.emulateMedia({ colorScheme: 'dark' });
  assert.equal(await page.evaluate(() => getComputedStyle(document.body.parentElement).backgroundColor), 'rgb(16, 22, 28)');

  // The keyboard alone: to a machine, resume it, pause it, reset it after all not.
  await page.goto(`${url}/#/`);
  await page.locator('body').click({ position: { x: 700, y: 800 } });
  await page.keyboard.press('?');
  await page.getByRole('dialog').getByText('leave the terminal or the screen').waitFor();
  await accessible(page, 'help');
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'hidden' });
  await tabTo(page, 'link', /^web1$/);
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'Resume' }).waitFor();
  await tabTo(page, 'button', /Resume/); // it was paused, whatever its server kept back
  await page.keyboard.press('Enter');
  await page.getByText('Resume of web1 is done; its state is running').first().waitFor();
  await page.locator('button:focus', { hasText: 'Pause' }).waitFor(); // the same place is Pause now
  await page.keyboard.press('Enter');
  await page.getByText('Pause of web1 is done; its state is paused').first().waitFor();
  await tabTo(page, 'button', /Reset/);
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').getByText('What the guest has not saved is lost').waitFor();
  await accessible(page, 'question');
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'hidden' });
  await page.keyboard.press('g');
  await page.keyboard.press('t');
  await page.getByRole('heading', { name: /The chain/ }).waitFor();

  // Log out: in every tab.
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByRole('heading', { name: 'Log in with a link' }).waitFor();
  await other.getByRole('heading', { name: 'Log in with a link' }).waitFor();
  log('the page does what it should');
});

// tabTo presses Tab until something has the keyboard.
async function tabTo(page, role, name) {
  const way = [];
  for (let i = 0; i < 60; i++) {
    await page.keyboard.press('Tab');
    const here = await page.evaluate(() => {
      const e = document.activeElement;
      const box = e?.getBoundingClientRect();
      return { role: e?.tagName === 'A' ? 'link' : e?.tagName.toLowerCase(), name: e?.textContent?.trim() ?? '', outline: e ? getComputedStyle(e).outlineStyle : '', seen: box && box.width > 0 };
    });
    way.push(`${here.role} ${here.name}`);
    if (here.role === role && name.test(here.name)) {
      assert(here.seen && here.outline !== 'none', `the focus on ${here.name} cannot be seen`);
      return;
    }
  }
  assert.fail(`Tab does not lead to ${role} ${name}, but to ${way.join(', ')}`);
}
