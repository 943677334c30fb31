// Writes test/generated: the code blocks of documents as modules, so that tests compile and run them as they stand.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const root = new URL("../", import.meta.url);
const target = new URL("test/generated/", root);

/** The blocks of a document, each with the heading that it stands under. */
function blocks(document) {
  const text = readFileSync(new URL(document, root), "utf8");
  const found = [];
  let heading = "";
  for (const [, title, code] of text.matchAll(/^#+ (.*)$|^```ts\n([\s\S]*?)^```$/gm)) {
    if (title !== undefined) heading = title.trim();
    else found.push({ heading, code });
  }
  return found;
}

function snippets() {
  const functions = blocks("test/seed-snippets.md").map(({ heading, code }) => {
    const name = /^const (\w+) =/m.exec(code)?.[1];
    const body = ["void [client, colonyId];", code, name ? `return ${name};` : ""].join("\n");
    return `  ${JSON.stringify(heading)}: async (client: Mi, colonyId: string) => {\n${body}\n  },\n`;
  });
  return `import type { Mi } from "mi-sdk";\n\nexport const snippets = {\n${functions.join("")}};\n`;
}

rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
writeFileSync(new URL("snippets.ts", target), snippets());

// Tests that speak another protocol than the default say so in the one place where the example makes its client.
const protocol = process.env.MI_TEST_PROTOCOL;
const made = protocol ? `new Mi({ protocol: ${JSON.stringify(protocol)} })` : "new Mi()";
blocks("README.md").forEach(({ code }, index) => {
  writeFileSync(new URL(`readme-${index}.ts`, target), code.replace("new Mi()", made));
});
