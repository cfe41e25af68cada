"""Sends one COMMAND that asks for every state, and prints the states until it is acknowledged."""
import asyncio, json, ssl, sys
import websockets


async def main(url, ca, token, to):
    tls = ssl.create_default_context(cafile=ca)
    async with websockets.connect(f"{url}?token={token}", ssl=tls) as ws:
        await ws.send(json.dumps({"type": "COMMAND", "to": to, "id": "c-1", "payload": 1, "receipt": "acked"}))
        states = []
        while "acked" not in states:
            answer = json.loads(await asyncio.wait_for(ws.recv(), 30))
            if answer["type"] == "RECEIPT":
                states.append(answer["payload"]["state"])
        print(*states, flush=True)


asyncio.run(main(*sys.argv[1:5]))
