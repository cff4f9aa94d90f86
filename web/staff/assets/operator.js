// The operator's page: live figures of one sale, and its controls.

const at = (id) => document.getElementById(id);
let token = null;
let eventId = null;
let sale = null;

async function call(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: {
      ...(body ? { 'content-type': 'application/json' } : {}),
      ...(token ? { authorization: `Bearer ${token}` } : {}),
    },
    body: body ? JSON.stringify(body) : undefined,
  });
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(data.detail || data.title || `The server answered ${answer.status}.`);
  return data;
}

async function attempt(action) {
  at('problem').hidden = true;
  at('done').textContent = '';
  try {
    await action();
  } catch (refused) {
    at('problem').textContent = refused.message;
    at('problem').hidden = false;
  }
}

function figures({ sale: settings, live }) {
  sale = settings;
  at('state').textContent = settings.state.replace('_', ' ');
  at('pause').textContent = settings.paused ? 'Resume' : 'Pause';
  at('close').textContent = settings.closed ? 'Reopen the sale' : 'Close the sale';
  const stock = live?.stock;
  const values = {
    waiting: live?.waiting,
    joined: live?.joined,
    cursor: live?.cursor,
    claimed: live?.claimed_last_minute,
    shopping: live?.shopping,
    available: stock?.available,
    held: stock?.held,
    sold: stock?.sold,
  };
  for (const [id, value] of Object.entries(values)) at(id).textContent = value?.toLocaleString() ?? '–';
}

function fill() {
  at('rate').value = sale.rate_per_minute;
  at('cap').value = sale.shopper_cap;
  at('message').value = sale.message;
}

/** Server-Sent Events need the access token in a header, so they are read with fetch. */
async function watch() {
  for (;;) {
    try {
      const answer = await fetch(`/api/sales/${eventId}/stream`, { headers: { authorization: `Bearer ${token}` } });
      if (!answer.ok) throw new Error(`${answer.status}`);
      at('link').textContent = '';
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        text += part.value;
        const blocks = text.split('\n\n');
        text = blocks.pop();
        for (const block of blocks) {
          const data = block.split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5)).join('\n');
          if (data) figures(JSON.parse(data));
        }
      }
    } catch {
      at('link').textContent = 'No connection; trying again.';
    }
    await new Promise((done) => setTimeout(done, 2000));
  }
}

async function change(settings, done) {
  ({ sale } = await call('PUT', `/api/sales/${eventId}`, settings));
  fill();
  at('done').textContent = done;
}

at('sign-in-form').addEventListener('submit', (submit) => {
  submit.preventDefault();
  attempt(async () => {
    const body = { email: at('email').value, password: at('password').value };
    const { session } = await call('POST', '/api/sessions', body);
    token = session.access_token;
    eventId = at('event').value;
    figures(await call('GET', `/api/sales/${eventId}`));
    fill();
    at('sale-title').textContent = `Sale of event ${eventId}`;
    at('sign-in').hidden = true;
    at('sale').hidden = false;
    watch();
  });
});
at('settings').addEventListener('submit', (submit) => {
  submit.preventDefault();
  const settings = { rate_per_minute: Number(at('rate').value), shopper_cap: Number(at('cap').value), message: at('message').value };
  attempt(() => change(settings, 'Applied.'));
});
at('pause').addEventListener('click', () => attempt(() => change({ paused: !sale.paused }, sale.paused ? 'Resumed.' : 'Paused.')));
at('close').addEventListener('click', () => {
  if (!sale.closed && !confirm('Close the sale? Nobody can join or book any more.')) return;
  attempt(() => change({ closed: !sale.closed }, sale.closed ? 'Reopened.' : 'Closed.'));
});
