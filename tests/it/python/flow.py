"""Sends COMMANDs one after another to one agent; prints a line for each: the RESULT's number, or the ERROR's code."""
import asyncio, json, ssl, sys
import websockets


async def main(url, ca, token, to):
    tls = ssl.create_default_context(cafile=ca)
    async with websockets.connect(f"{url}?token={token}", ssl=tls) as ws:
        n = 0
        while True:
            n += 1
            await ws.send(json.dumps({"type": "COMMAND", "to": to, "id": f"f-{n}", "payload": n}))
            try:
                answer = json.loads(await asyncio.wait_for(ws.recv(), 1))
            except asyncio.TimeoutError:
                print("silence", flush=True)
                continue
            if answer["type"] == "RESULT":
                print("result", answer["payload"]["echo"], flush=True)
            else:
                print("error", answer["payload"]["code"], flush=True)
                await asyncio.sleep(0.05)


asyncio.run(main(*sys.argv[1:5]))
