// node-redis. Arguments: the folder with its node_modules, and the task as JSON.
// What is said on stdin and stdout is the same for all workers: see __init__.py in this folder.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [folder, text] = process.argv.slice(2);
const task = JSON.parse(text);
const { createClient } = createRequire(folder + '/')('redis');

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const now = () => Number(process.hrtime.bigint()) / 1e9;

const client = await createClient({ socket: { host: task.host, port: task.port } })
  .on('error', (error) => {
    console.error(String(error));
    process.exit(1);
  })
  .connect();

let began;
async function ready() {
  say({});
  await lines.next();
  began = now();
}

async function scan() {
  await client.ping();
  const options = {};
  if (task.match != null) options.MATCH = task.match;
  if (task.count != null) options.COUNT = task.count;
  await ready();
  let keys = 0;
  do {
    for await (const page of client.scanIterator(options)) {
      for (const _key of page) keys += 1;
    }
  } while (now() - began < (task.at_least ?? 0));
  say({ seconds: now() - began, keys });
}

async function get() {
  await client.set(task.key, task.value);
  const caller = async (calls) => {
    for (let i = 0; i < calls; i++) {
      if ((await client.get(task.key)) !== task.value) throw new Error('a wrong reply');
    }
  };
  await ready();
  await Promise.all(Array.from({ length: task.tasks }, () => caller(Math.floor(task.calls / task.tasks))));
  say({ seconds: now() - began });
}

await { scan, get }[task.what]();
await lines.next();
await client.close();
process.exit(0);
