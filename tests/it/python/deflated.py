"""Sends itself a message large enough to be compressed; the package compresses unless it is told not to."""
import asyncio, json, ssl, sys
import websockets


async def main(url, ca, token):
    tls = ssl.create_default_context(cafile=ca)
    async with websockets.connect(f"{url}?token={token}", ssl=tls) as ws:
        print(ws.response.headers["Sec-WebSocket-Extensions"].split(";")[0], flush=True)
        payload = {"lines": [f"line {n} of a message that is worth compressing" for n in range(400)]}
        await ws.send(json.dumps({"type": "COMMAND", "to": "worker", "id": "c-1", "payload": payload}))
        while True:
            frame = json.loads(await asyncio.wait_for(ws.recv(), 30))
            if frame["type"] == "COMMAND":
                assert frame["payload"] == payload
                print("the message came back whole", flush=True)
                return


asyncio.run(main(*sys.argv[1:4]))
