"""Speaks MessagePack: to an agent that speaks JSON, and to itself. Prints what came of it as JSON, bytes as a list."""
import asyncio, json, os, ssl, sys
import msgpack
import websockets


async def main(url, ca, token, to):
    tls = ssl.create_default_context(cafile=ca)
    headers = {"Authorization": f"Bearer {token}"}
    offered = ["trishula.v2+msgpack", "trishula.v2+json"]
    async with websockets.connect(url, ssl=tls, additional_headers=headers, subprotocols=offered) as ws:
        async def say(frame):
            await ws.send(msgpack.packb(frame))

        async def hear():
            message = await asyncio.wait_for(ws.recv(), 30)
            assert isinstance(message, bytes), message
            return msgpack.unpackb(message)

        seen = {"subprotocol": ws.subprotocol}
        payload = {"raw": b"\x00\x01", "n": 2**63, "f": 1.5, "deep": [{"raw": b"\xff"}]}
        await say({"type": "COMMAND", "to": to, "id": "p-1", "payload": payload, "class": "durable"})
        seen["from json"] = await hear()
        await say({"type": "COMMAND", "to": "packed", "id": "p-2", "payload": payload, "mine": b"\x02"})
        seen["from itself"] = await hear()
        await ws.send("{}")
        seen["text"] = await hear()
        await ws.send(b"\x81\xa1a\xd4\x01\x00")
        seen["extension"] = await hear()
        await say({"type": "STATUS", "to": to, "payload": os.urandom(900_000)})
        seen["large"] = await hear()
        await say({"type": "AGENTS"})
        seen["goes on"] = (await hear())["type"]
        print(json.dumps(seen, default=list), flush=True)


asyncio.run(main(*sys.argv[1:5]))
