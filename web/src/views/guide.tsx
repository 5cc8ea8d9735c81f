import { get, type Guide } from '../api';
import { usePoll, useTitle } from '../hooks';
import { Check, Warning } from '../parts/icons';
import { Command, Notice } from '../parts/bits';

export function GuideView({ first = false }: { first?: boolean }) {
  useTitle('Guide');
  const { data, failure, again } = usePoll(() => get<Guide>('guide'), 0);
  return (
    <>
      <h1>{first ? 'Welcome' : 'Guide and doctor'}</h1>
      <p class="lead">
        {first
          ? 'There is no machine yet. These are the steps to the first one. They are typed in a terminal, because they ask for passphrases; this page never does.'
          : 'From nothing to a machine that runs. These steps are typed in a terminal, because they ask for passphrases; this page never does.'}
      </p>
      {failure && <Notice kind="bad" title={failure.message} text={failure.hint} />}
      <ol class="tasks">
        {data?.tasks.map((t) => (
          <li key={t.title} class={`card ${t.done ? 'done' : ''}`}>
            <h2>
              {t.title}
              {t.done && (
                <span class="chip run">
                  <Check /> done
                </span>
              )}
            </h2>
            <p>{t.text}</p>
            {t.commands.map((c) => (
              <Command key={c} text={c} />
            ))}
          </li>
        ))}
      </ol>
      <section>
        <div class="head">
          <h2>Doctor</h2>
          <button type="button" onClick={again}>
            Examine again
          </button>
        </div>
        <table>
          <caption class="hidden">What uvbond doctor finds</caption>
          <thead>
            <tr>
              <th scope="col">Finding</th>
              <th scope="col">What</th>
              <th scope="col">Details</th>
            </tr>
          </thead>
          <tbody>
            {data?.findings.map((f) => (
              <tr key={f.what + f.text} class={f.state}>
                <td>
                  <span class={`chip ${f.state === 'ok' ? 'run' : f.state === 'error' ? 'bad' : 'pause'}`}>
                    {f.state === 'ok' ? <Check /> : <Warning />} {f.state}
                  </span>
                </td>
                <th scope="row">{f.what}</th>
                <td>
                  {f.text}
                  {f.mend && (
                    <div class="faint">
                      mend it: <code>{f.mend}</code>
                    </div>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
    </>
  );
}
