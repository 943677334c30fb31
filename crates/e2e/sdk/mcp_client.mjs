// An MCP client, `@modelcontextprotocol/sdk` of npm as it is: hires an agent and gets a task done.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const { MI_MCP_URL, MI_MCP_TOKEN, MI_OFFICE_ID: office_id } = process.env;
const headers = { Authorization: `Bearer ${MI_MCP_TOKEN}` };
const client = new Client({ name: "e2e", version: "1.0.0" });
await client.connect(new StreamableHTTPClientTransport(new URL(MI_MCP_URL), { requestInit: { headers } }));

const { tools } = await client.listTools();
const name = "js-agent";
const call = (name, args, options) =>
  client.callTool({ name, arguments: { office_id, ...args } }, undefined, options);
const hired = await call("hire_agent", { name });
if (hired.isError) throw new Error(JSON.stringify(hired));
const notes = [];
const done = await call(
  "create_task",
  {
    title: "greet",
    kind: "TASK_KIND_COMMAND",
    description: "echo hello from $((40 + 2))",
    assigned_agent: name,
    wait: true,
  },
  { onprogress: (note) => notes.push(note.message), resetTimeoutOnProgress: true },
);
const { task } = done.structuredContent;
const uri = `mi://office/${office_id}/files/${name}.txt`;
const written = await call("write_file", { path: `${name}.txt`, text: "héllo" });
if (written.isError) throw new Error(JSON.stringify(written));
const read = await client.readResource({ uri });
const { resources } = await client.listResources();
const refused = await call("get_agent", { name: "nobody" });
console.log(
  JSON.stringify({
    tools: tools.length,
    status: task.status,
    greeted: task.result.includes("hello from 42"),
    noted: notes.length > 0 && notes.at(-1).includes("done"),
    read: read.contents[0].text,
    listed: resources.some((resource) => resource.uri === uri),
    refused: [refused.isError, refused.structuredContent.error.reason],
  }),
);
await client.close();
