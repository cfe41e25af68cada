"""Sends one COMMAND with one of several libraries, its token passed in one of several ways, and prints the RESULT.

any_client.py URL CA TOKEN TO LIBRARY WAY
"""
import asyncio, json, ssl, sys

JSON = "trishula.v2+json"


def told(way, url, token):
    """URL, headers, subprotocols, and what is said first."""
    return {
        "header": (url, {"Authorization": f"Bearer {token}"}, [JSON], None),
        "query": (f"{url}?token={token}", {}, [], None),
        "subprotocol": (url, {}, [JSON, f"bearer.{token}"], None),
        "message": (url, {}, [], {"type": "auth", "token": token}),
    }[way]


async def by_websockets(url, tls, headers, offered, talk):
    import websockets

    offer = {"subprotocols": offered} if offered else {}
    async with websockets.connect(url, ssl=tls, additional_headers=headers, **offer) as ws:
        async def hear():
            return await asyncio.wait_for(ws.recv(), 30)

        return await talk(ws.subprotocol, ws.send, hear)


async def by_aiohttp(url, tls, headers, offered, talk):
    import aiohttp

    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(url, ssl=tls, headers=headers, protocols=offered, compress=15) as ws:
            async def hear():
                return await ws.receive_str(timeout=30)

            return await talk(ws.protocol, ws.send_str, hear)


async def by_websocket_client(url, tls, headers, offered, talk):
    import websocket

    ws = websocket.create_connection(url, timeout=30, sslopt={"context": tls}, header=headers, subprotocols=offered or None)

    async def say(text):
        ws.send(text)

    async def hear():
        return ws.recv()

    try:
        return await talk(ws.getsubprotocol(), say, hear)
    finally:
        ws.close()


async def main(url, ca, token, to, library, way):
    url, headers, offered, first = told(way, url, token)

    async def talk(selected, say, hear):
        assert selected == (JSON if offered else None), f"selected {selected}"
        if first:
            await say(json.dumps(first))
        await say(json.dumps({"type": "COMMAND", "to": to, "id": f"{library}-{way}", "payload": {"do": "hello"}}))
        while True:
            frame = json.loads(await hear())
            if frame["type"] != "AUTHENTICATED":
                return frame

    connect = {"websockets": by_websockets, "aiohttp": by_aiohttp, "websocket-client": by_websocket_client}[library]
    print(json.dumps(await connect(url, ssl.create_default_context(cafile=ca), headers, offered, talk)), flush=True)


asyncio.run(main(*sys.argv[1:7]))
