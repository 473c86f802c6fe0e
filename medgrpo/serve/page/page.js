// Asks every loaded version the same question through the public HTTP interface, and shows what they stream.

const EXAMPLE = 'White cell count is 19.2 ×10⁹/L (reference range 3.6-11.0). Is it low, normal or high?\n' +
  'A. low\nB. normal\nC. high';
const NAMES = { champion: 'Champion', challenger: 'Challenger', base: 'Base model', previous: 'Previous' };
const byId = (id) => document.getElementById(id);
let panels = [];
let asking = null; // aborts the streams of the question that is being answered

function say(problem) {
  byId('problem').textContent = problem;
  byId('problem').hidden = !problem;
}

async function read(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error?.message ?? `the server says ${response.status}`);
  return body;
}

// --- What a completion says ---------------------------------------------------------------------------------------

// The inside of a block, also while it is still being written; and what is left when it is taken out.
function take(text, tag) {
  const opening = `<${tag}>`, closing = `</${tag}>`;
  const start = text.indexOf(opening);
  if (start < 0) return [null, text];
  const end = text.indexOf(closing, start);
  const inside = text.slice(start + opening.length, end < 0 ? undefined : end);
  return [inside, text.slice(0, start) + (end < 0 ? '' : text.slice(end + closing.length))];
}

function split(text) {
  const whole = text.replace(/<\/?[a-z]{0,9}$/, ''); // half a tag is not shown
  const [reasoning, rest] = take(whole, 'reasoning');
  const [answer, loose] = take(rest, 'answer');
  return { reasoning, answer, loose: loose.trim() || null };
}

// --- One version --------------------------------------------------------------------------------------------------

class Panel {
  constructor(role, version) {
    this.role = role;
    this.node = byId('version').content.firstElementChild.cloneNode(true);
    this.node.dataset.role = role;
    this.find('.role').textContent = NAMES[role] ?? role;
    this.find('.name').textContent = version === role ? '' : version;
    for (const button of this.node.querySelectorAll('[data-thumb]'))
      button.addEventListener('click', () => this.rate(button));
    this.find('details').addEventListener('toggle', () => this.showLineage(), { once: true });
    byId('versions').append(this.node);
  }

  find(selector) { return this.node.querySelector(selector); }

  part(name, text) {
    const node = this.find(`.${name}`);
    node.textContent = text ?? '';
    node.hidden = node.previousElementSibling.hidden = text === null;
  }

  state(text) {
    this.find('.state').textContent = text;
    this.find('.state').hidden = !text;
  }

  show(text) {
    for (const [name, part] of Object.entries(split(text))) this.part(name, part);
  }

  async ask(question, signal) {
    this.node.dataset.state = 'asking';
    this.show('');
    this.state('…');
    this.find('.figures').textContent = '';
    this.find('.thumbs').hidden = true;
    try {
      await this.stream(question, signal);
      this.node.dataset.state = 'done';
    } catch (error) {
      this.node.dataset.state = 'failed';
      this.state(signal.aborted ? 'Stopped.' : `No answer: ${error.message}`);
    }
  }

  async stream(question, signal) {
    const begun = performance.now();
    const body = {
      model: this.role, messages: [{ role: 'user', content: question }],
      stream: true, stream_options: { include_usage: true },
    };
    const response = await fetch('/v1/chat/completions', {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body), signal,
    });
    if (!response.ok) await read(response);
    let said = '', last = {};
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      said += chunk.choices[0]?.delta?.content ?? '';
      last = { ...last, ...chunk, medgrpo: chunk.medgrpo ?? last.medgrpo };
      if (said) { this.state(''); this.show(said); }
    }
    this.finish(last, (performance.now() - begun) / 1000);
  }

  finish(last, seconds) {
    this.id = last.id;
    const told = last.medgrpo;
    const form = told?.strict ? 'in the asked form' : 'not in the asked form: counts as no answer';
    const tokens = last.usage ? `${last.usage.completion_tokens} tokens, ` : '';
    this.find('.figures').textContent = `${tokens}${seconds.toFixed(1)} s, ${form}`;
    this.find('.name').textContent = told && told.version !== this.role ? told.version : '';
    this.find('.thanks').textContent = 'Was this good?';
    this.find('.thumbs').hidden = false;
  }

  async rate(button) {
    try {
      await read(await fetch('/v1/feedback', {
        method: 'POST', headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ id: this.id, thumb: button.dataset.thumb }),
      }));
      this.find('.thanks').textContent = `Noted: thumb ${button.dataset.thumb}.`;
    } catch (error) {
      this.find('.thanks').textContent = `Not noted: ${error.message}`;
    }
  }

  async showLineage() {
    const list = this.find('.lineage');
    try {
      for (const [name, value] of lines(await read(await fetch(`/v1/versions/${this.role}`)))) {
        const term = document.createElement('dt'), said = document.createElement('dd');
        term.textContent = name;
        said.textContent = value;
        list.append(term, said);
      }
    } catch (error) {
      list.textContent = `Not known: ${error.message}`;
    }
  }
}

// Lineage as (name, value) lines; what a version doesn't have is left out.
function lines(known) {
  const decision = known.decision;
  const rows = known.dataset?.rows && Object.entries(known.dataset.rows).map(([name, n]) => `${n} ${name}`).join(', ');
  return [
    ['Version', known.version],
    ['Base model', known.base?.name],
    ['Adapter digest', known.adapter_digest],
    ['MLflow run', known.run?.run_id],
    ['Data digest', known.dataset?.digest],
    ['Rows', rows],
    ['Measured', known.figures && `on ${known.figures.rows} rows: accuracy ${known.figures.accuracy}, asked form ` +
      known.figures.format_rate],
    ['Limits', known.limits],
    ['Gate', decision && `${decision.promote ? 'promoted' : 'refused'}, compared with ${known.compared_with}`],
    ...(decision?.reasons ?? []).map((reason) => ['', reason]),
    ['Problem', known.problem],
  ].filter(([, value]) => value);
}

// The JSON of each server-sent event.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = '', part; !(part = await reader.read()).done;) {
    const found = (rest + part.value).split('\n\n');
    rest = found.pop();
    for (const event of found) {
      const data = event.replace(/^data: /, '');
      if (data !== '[DONE]') yield JSON.parse(data);
    }
  }
}

// --- The page -----------------------------------------------------------------------------------------------------

// One panel per version: a version in two roles is shown once.
async function showVersions() {
  const { loaded, problem } = await read(await fetch('/v1/versions'));
  const wanted = Object.entries(loaded).filter(([, version], place, all) =>
    all.findIndex(([, other]) => other === version) === place);
  const names = wanted.map(([role]) => role).join();
  if (names !== panels.map((panel) => panel.role).join()) {
    byId('versions').replaceChildren();
    panels = wanted.map(([role, version]) => new Panel(role, version));
  }
  say(problem && `The newest promotion isn't followed: ${problem}`);
}

async function ask(event) {
  event.preventDefault();
  asking = new AbortController();
  byId('ask').disabled = true;
  byId('stop').disabled = false;
  try {
    await showVersions();
    await Promise.all(panels.map((panel) => panel.ask(byId('question').value, asking.signal)));
  } catch (error) {
    say(`No answer: ${error.message}`);
  }
  byId('ask').disabled = false;
  byId('stop').disabled = true;
}

byId('form').addEventListener('submit', ask);
byId('stop').addEventListener('click', () => asking.abort());
byId('example').addEventListener('click', () => { byId('question').value = EXAMPLE; });
showVersions().catch((error) => say(`The versions aren't known: ${error.message}`));
