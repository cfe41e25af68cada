"""Sends one COMMAND with a field of its own, and prints the RESULT."""
import asyncio, json, ssl, sys
import websockets


async def main(url, ca, token, to):
    tls = ssl.create_default_context(cafile=ca)
    async with websockets.connect(f"{url}?token={token}", ssl=tls) as ws:
        command = {"type": "COMMAND", "from": "asker", "to": to, "id": "c-1", "timestamp": 1707561600000,
                   "payload": {"do": "hello"}, "priority": 2, "note": "kept"}
        await ws.send(json.dumps(command))
        print(await asyncio.wait_for(ws.recv(), 30), flush=True)


asyncio.run(main(*sys.argv[1:5]))
