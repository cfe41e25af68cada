"""Answers every COMMAND with a RESULT. Knows nothing but WebSocket and the envelope."""
import asyncio, json, ssl, sys
import websockets


async def main(url, ca, token):
    tls = ssl.create_default_context(cafile=ca)
    headers = {"Authorization": f"Bearer {token}"}
    async with websockets.connect(url, ssl=tls, additional_headers=headers) as ws:
        await ws.send(json.dumps({"type": "HEARTBEAT", "id": "ready"}))
        assert json.loads(await ws.recv())["reply_to"] == "ready"
        print("ready", flush=True)
        async for text in ws:
            message = json.loads(text)
            if message["type"] == "COMMAND":
                answer = {"type": "RESULT", "to": message["from"], "reply_to": message["id"],
                          "payload": {"echo": message["payload"], "note": message.get("note")}}
                await ws.send(json.dumps(answer))


asyncio.run(main(*sys.argv[1:4]))
