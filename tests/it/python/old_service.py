"""An old service behind the mesh: the agent `service` of its namespace, which answers the requests of its clients, and tells
those that have subscribed to a pool who asked for it."""
import asyncio, json, ssl, sys
import websockets


async def main(url, ca, token):
    tls = ssl.create_default_context(cafile=ca)
    headers = {"Authorization": f"Bearer {token}"}
    # The name of our protocol: without it this port speaks the service's own.
    async with websockets.connect(url, ssl=tls, subprotocols=["trishula.v2+json"], additional_headers=headers) as ws:
        await ws.send(json.dumps({"type": "REGISTER"}))
        assert json.loads(await ws.recv())["type"] == "REGISTERED"
        print("ready", flush=True)
        async for text in ws:
            message = json.loads(text)
            if message["type"] != "COMMAND":
                continue
            asked = message["payload"]
            data = {"pool_id": asked["data"]["pool_id"], "status": "idle", "asked_by": message["from"]}
            answer = {"type": "RESULT", "to": message["from"], "reply_to": message["id"], "payload": {"data": data}}
            await ws.send(json.dumps(answer))
            event = {"event": "pool.asked", "data": {"pool_id": data["pool_id"]}}
            await ws.send(json.dumps({"type": "PUBLISH", "to": f"room:pool:{data['pool_id']}", "payload": event}))


asyncio.run(main(*sys.argv[1:4]))
