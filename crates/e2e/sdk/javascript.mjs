// The libraries of npm: prints a line of JSON for each call. Started by run.py.
import assert from "node:assert";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { GoogleGenAI } from "@google/genai";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, streamText, tool } from "ai";

const env = process.env;
const claude = env.SDK_CLAUDE ?? "claude-sonnet-4-5";
const gpt = env.SDK_GPT ?? "gpt-5.5";
const gemini = env.SDK_GEMINI ?? "gemini-2.5-flash";
const schema = { type: "object", properties: { place: { type: "string" } }, required: ["place"] };
const look = { name: "look", description: "Looks at a place." };
const prompt = "Say hello.";
const messages = [{ role: "user", content: prompt }];

function say(sdk, call, text, tool, usage) {
  console.log(JSON.stringify({ sdk: `npm ${sdk}`, call, text, tool, usage }));
}

async function withOpenAi() {
  const client = new OpenAI({ maxRetries: 0 });
  const asked = { model: gpt, messages };
  const used = (usage) => [usage.prompt_tokens, usage.completion_tokens];

  let answer = await client.chat.completions.create(asked);
  say("openai", "chat", answer.choices[0].message.content, null, used(answer.usage));

  let text = "", usage;
  const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  say("openai", "chat stream", text, null, used(usage));

  answer = await client.chat.completions.create({ ...asked, tools: [{ type: "function", function: { ...look, parameters: schema } }] });
  const call = answer.choices[0].message.tool_calls[0].function;
  say("openai", "chat tool", answer.choices[0].message.content ?? "", [call.name, JSON.parse(call.arguments)], used(answer.usage));

  text = "";
  const response = client.responses.stream({ model: gpt, input: prompt });
  for await (const event of response) {
    text += event.type === "response.output_text.delta" ? event.delta : "";
  }
  const whole = await response.finalResponse();
  say("openai", "responses stream", text, null, [whole.usage.input_tokens, whole.usage.output_tokens]);
}

async function withAnthropic() {
  const client = new Anthropic({ maxRetries: 0 });
  const asked = { model: claude, max_tokens: 100, messages };
  const used = (answer) => [answer.usage.input_tokens, answer.usage.output_tokens];

  let answer = await client.messages.create(asked);
  say("@anthropic-ai/sdk", "messages", answer.content[0].text, null, used(answer));

  const stream = client.messages.stream(asked);
  const text = await stream.finalText();
  say("@anthropic-ai/sdk", "messages stream", text, null, used(await stream.finalMessage()));

  answer = await client.messages.stream({ ...asked, tools: [{ ...look, input_schema: schema }] }).finalMessage();
  say("@anthropic-ai/sdk", "messages tool", "", [answer.content[0].name, answer.content[0].input], used(answer));
}

async function withGemini() {
  // This one takes the server from the variable, and the key from the caller.
  const client = new GoogleGenAI({ apiKey: env.GEMINI_API_KEY });
  const asked = { model: gemini, contents: prompt };
  const used = (usage) => [usage.promptTokenCount, usage.candidatesTokenCount];

  let answer = await client.models.generateContent(asked);
  say("@google/genai", "content", answer.text, null, used(answer.usageMetadata));

  let text = "", usage;
  for await (const chunk of await client.models.generateContentStream(asked)) {
    text += chunk.text ?? "";
    usage = chunk.usageMetadata ?? usage;
  }
  say("@google/genai", "content stream", text, null, used(usage));

  const tools = [{ functionDeclarations: [{ ...look, parametersJsonSchema: schema }] }];
  answer = await client.models.generateContent({ ...asked, config: { tools } });
  const [call] = answer.functionCalls;
  say("@google/genai", "content tool", "", [call.name, call.args], used(answer.usageMetadata));
}

async function withAi() {
  // Its providers have the version of the API in their base URLs, which the variables of the vendors have not.
  const providers = {
    "openai chat": createOpenAI({}).chat(gpt),
    "openai responses": createOpenAI({}).responses(gpt),
    "anthropic messages": createAnthropic({ baseURL: `${env.ANTHROPIC_BASE_URL}/v1` })(claude),
    "google content": createGoogleGenerativeAI({
      baseURL: `${env.GOOGLE_GEMINI_BASE_URL}/v1beta`,
      apiKey: env.GEMINI_API_KEY,
    })(gemini),
  };
  const tools = { look: tool({ description: look.description, inputSchema: jsonSchema(schema) }) };
  const used = (usage) => [usage.inputTokens, usage.outputTokens];
  for (const [name, model] of Object.entries(providers)) {
    const asked = { model, prompt, maxRetries: 0 };
    const answer = await generateText(asked);
    say("ai", name, answer.text, null, used(answer.usage));

    const stream = streamText({ ...asked, onError: ({ error }) => assert.fail(error) });
    let text = "";
    for await (const part of stream.textStream) {
      text += part;
    }
    say("ai", `${name} stream`, text, null, used(await stream.usage));

    const called = await generateText({ ...asked, tools });
    const [call] = called.toolCalls;
    say("ai", `${name} tool`, called.text, [call.toolName, call.input], used(called.usage));
  }
}

await withOpenAi();
await withAnthropic();
await withGemini();
await withAi();
