// Sends one COMMAND with the package `ws`, its token passed in one of several ways, and prints the RESULT.
//
// any_client.mjs URL CA TOKEN TO WAY
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(process.env.TRISHULA_TEST_NODE + "/");
const WebSocket = require("ws");
const [url, ca, token, to, way] = process.argv.slice(2);
const JSON_FORM = "trishula.v2+json";

const { address, headers, offered, first } = {
  header: { address: url, headers: { Authorization: `Bearer ${token}` }, offered: [JSON_FORM] },
  query: { address: `${url}?token=${token}`, offered: [] },
  subprotocol: { address: url, offered: [JSON_FORM, `bearer.${token}`] },
  message: { address: url, offered: [], first: { type: "auth", token } },
}[way];

const ws = new WebSocket(address, offered, { ca: readFileSync(ca), headers });
const fail = (why) => {
  console.error(why);
  process.exit(1);
};
setTimeout(() => fail("no answer within 30 s"), 30_000).unref();
ws.on("error", fail);
ws.on("close", (code, reason) => fail(`closed: ${code} ${reason}`));
ws.on("open", () => {
  if (ws.protocol !== (offered.length ? JSON_FORM : "")) fail(`selected ${ws.protocol}`);
  if (first) ws.send(JSON.stringify(first));
  ws.send(JSON.stringify({ type: "COMMAND", to, id: `ws-${way}`, payload: { do: "hello" } }));
});
ws.on("message", (data) => {
  const frame = JSON.parse(data);
  if (frame.type === "AUTHENTICATED") return;
  console.log(JSON.stringify(frame));
  process.exit(0);
});
