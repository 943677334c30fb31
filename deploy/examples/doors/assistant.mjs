// An assistant's client of MCP, for the platform of MI_ENDPOINT and MI_API_KEY: it hires an agent and has it work.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const { MI_ENDPOINT, MI_API_KEY } = process.env;
const transport = new StreamableHTTPClientTransport(new URL("/mcp", MI_ENDPOINT), {
  requestInit: { headers: { authorization: `Bearer ${MI_API_KEY}` } },
});
const client = new Client({ name: "assistant", version: "1" });
await client.connect(transport);

async function call(name, args) {
  const answer = await client.callTool({ name, arguments: args });
  if (answer.isError) throw new Error(answer.content[0].text);
  return answer.structuredContent;
}

const { tools } = await client.listTools();
console.log(`${tools.length} tools: ${tools.map((tool) => tool.name).join(", ")}`);
const { office } = await call("create_office", { name: "Assisted" });
await call("hire_agent", { office_id: office.id, name: "worker" });
const { task } = await call("create_task", {
  office_id: office.id,
  title: "greet",
  kind: "TASK_KIND_COMMAND",
  description: "echo hello from $(pwd)",
  wait: true,
});
console.log(task.status, JSON.stringify(task.result));
await client.close();
