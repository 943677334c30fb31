// A colony in a few lines of the TypeScript client, for the platform of MI_ENDPOINT and MI_API_KEY.

import { Mi } from "./mi-sdk/dist/index.js";

const client = new Mi();
const office = await client.offices.create({ name: "My Colony" });
await client.agents.hire(office.id, { name: "analyst", modelTier: "sonnet" });
const task = await client.tasks.run(office.id, {
  title: "count",
  kind: "command",
  description: 'seq 3 | wc -l > "$MI_ARTIFACTS/lines" && echo counted',
});
console.log(task.status, JSON.stringify(task.result));
console.log(task.artifacts[0], await (await client.files.download(office.id, task.artifacts[0])).text());
await client.offices.delete(office.id);
