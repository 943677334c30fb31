// Every public RPC through the Connect libraries of npm, one line of JSON a transport.

import { readdirSync } from "node:fs";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import * as node from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";

/** What would end the office or the process, and is not called. */
const LEFT_OUT = ["deleteOffice", "suspendOffice", "rotateMasterKey"];
/** What no caller should see. */
const STRANGE = [Code.Unknown, Code.Internal, Code.Unimplemented, Code.Unavailable];
/** How long a stream is looked at, in milliseconds. */
const LOOK = 300;

const authorized = (next) => (request) => {
  request.header.set("authorization", `Bearer ${process.env.MI_API_KEY}`);
  return next(request);
};
const options = { baseUrl: process.env.MI_ENDPOINT, interceptors: [authorized] };
const gzip = { acceptCompression: [node.compressionGzip], sendCompression: node.compressionGzip, compressMinBytes: 0 };
const transports = {
  "node, HTTP/1.1, JSON": node.createConnectTransport({ ...options, httpVersion: "1.1" }),
  "node, HTTP/1.1, JSON, GET": node.createConnectTransport({ ...options, httpVersion: "1.1", useHttpGet: true }),
  "node, HTTP/1.1, protobuf, gzip": node.createConnectTransport({ ...options, ...gzip, httpVersion: "1.1", useBinaryFormat: true }),
  "node, HTTP/2, JSON": node.createConnectTransport({ ...options, httpVersion: "2" }),
  "web, JSON": web.createConnectTransport(options),
  "web, protobuf, GET": web.createConnectTransport({ ...options, useBinaryFormat: true, useHttpGet: true }),
};

const services = [];
for (const file of readdirSync(new URL("stubs/mi/v1/", import.meta.url)).filter((name) => name.endsWith("_service_pb.js"))) {
  const stubs = await import(new URL(`stubs/mi/v1/${file}`, import.meta.url));
  services.push(...Object.values(stubs).filter((value) => value?.kind === "service"));
}
const service = (name) => services.find((one) => one.typeName === `mi.v1.${name}`);

/** Whether a transport can carry a kind of call: streams of a client need more than `fetch`, both ways at once HTTP/2. */
function carries(name, kind) {
  if (kind === "bidi_streaming") return name.includes("HTTP/2");
  return kind !== "client_streaming" || name.startsWith("node");
}

async function call(client, method, request) {
  const messages = async function* () {
    yield request;
  };
  switch (method.methodKind) {
    case "unary":
      return client[method.localName](request);
    case "client_streaming":
      return client[method.localName](messages());
    default: {
      const sent = method.methodKind === "bidi_streaming" ? messages() : request;
      for await (const message of client[method.localName](sent, { timeoutMs: LOOK })) return message;
    }
  }
}

for (const [name, transport] of Object.entries(transports)) {
  const { office } = await createClient(service("OfficeService"), transport).createOffice({ name });
  const told = { library: name, unary: 0, streams: 0, strange: [] };
  for (const one of services) {
    const client = createClient(one, transport);
    for (const method of one.methods) {
      if (LEFT_OUT.includes(method.localName) || !carries(name, method.methodKind)) continue;
      const isOfOffice = method.input.fields.some((field) => field.localName === "officeId");
      try {
        await call(client, method, isOfOffice ? { officeId: office.id } : {});
      } catch (error) {
        if (!(error instanceof ConnectError) || STRANGE.includes(error.code)) {
          told.strange.push(`${one.typeName}.${method.name}: ${error}`);
        }
      }
      told[method.methodKind === "unary" ? "unary" : "streams"] += 1;
    }
  }
  console.log(JSON.stringify(told));
}
// Connections of HTTP/2 are kept.
process.exit(0);
