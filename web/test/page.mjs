// The page against a fake host.
import assert from 'node:assert/strict';
import { accessible, ask, run, shot, url } from './driver.mjs';

await run(async ({ page, context, wrong }) => {
  // First run: a guide.
  await page.goto(await ask('link'));
  await page.getByRole('heading', { name: 'Welcome' }).waitFor();
  assert.equal(new URL(page.url()).hash, '', 'the token stays in the address');
  await page.getByText('hosts', { exact: true }).waitFor();
  await shot(page, 'guide');
  await accessible(page, 'guide');

  await ask('vms');
  await page.getByRole('heading', { name: 'web1' }).waitFor();
  await shot(page, 'list');
  await accessible(page, 'list');

  // Start it and watch.
  await page.getByRole('heading', { name: 'web1' }).getByRole('link').click();
  await page.getByRole('button', { name: 'Start' }).waitFor();
  await ask('slow');
  await page.getByRole('button', { name: 'Start' }).click();
  await page.getByText('unverified until the receipt comes').waitFor();
  await page.getByText('uvbond-launch').first().waitFor();
  await shot(page, 'live');
  await accessible(page, 'live');
  await page.getByText('Start of web1 is done; its state is running').first().waitFor();
  await page.getByText(/verified by receipt [0-9a-f]{12}/).first().waitFor();
  await shot(page, 'started');
  await accessible(page, 'started');

  // An operator tries something.
  await ask('tried', 'screendump');
  await page.getByRole('link', { name: 'Time line' }).click();
  await page.getByText('screendump refused: never allowed').waitFor();
  await page.getByRole('heading', { name: 'The chain is whole' }).waitFor();
  await shot(page, 'timeline');
  await accessible(page, 'timeline');
  await page.getByRole('radio', { name: /Refused/ }).check({ force: true });
  assert.equal(await page.locator('.timeline > li').count(), 1);

  await page.getByRole('link', { name: 'Access' }).click();
  await page.getByText('at most 3 times in any day').first().waitFor();
  await shot(page, 'access');
  await accessible(page, 'access');

  await page.getByRole('radio', { name: 'dark' }).check({ force: true });
  await shot(page, 'access-dark');
  await accessible(page, 'access, dark');
  void context, wrong, url;
});
