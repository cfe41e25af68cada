"""Clients of the old mesh's relay and of session-buddy, by `websockets`: URLs, CA, tokens of mac, agni and of session-buddy."""
import asyncio, json, ssl, sys
import websockets
from websockets.exceptions import ConnectionClosed


async def relay(url, tls, name, token):
    ws = await websockets.connect(url, ssl=tls)
    await ws.send(name)
    await ws.send(token)
    return ws


async def main(relay_url, buddy_url, ca, mac_token, agni_token, buddy_token):
    tls = ssl.create_default_context(cafile=ca)
    mac = await relay(relay_url, tls, "mac", mac_token)
    agni = await relay(relay_url, tls, "agni", agni_token)
    await agni.send('{"id":"self","from":"agni","to":"agni","type":"task"}')
    assert json.loads(await agni.recv())["id"] == "self"
    text = ('{"id": "20260210T051100Z_mac_agni_x", "from": "mac",  "to": "agni", "type": "task", '
            '"priority": "urgent", "created_at": "2026-02-10T05:11:00Z", "body": "\u00fc"}')
    await mac.send(text)
    assert await agni.recv() == text, "as it was written"
    await mac.send('{"type":"COMMAND","from":"mac","to":"agni","id":"6f1c","timestamp":1767225600000,"payload":{"a":1.0},"priority":1}')
    assert json.loads(await agni.recv())["payload"] == {"a": 1.0}
    wrong = await relay(relay_url, tls, "agni", mac_token)
    try:
        await wrong.recv()
        raise AssertionError("a foreign token was taken")
    except ConnectionClosed as e:
        assert (e.rcvd.code, e.rcvd.reason) == (1008, "Invalid token"), e
    print("relay", flush=True)

    buddy = await websockets.connect(buddy_url, ssl=tls)
    await buddy.send(json.dumps({"token": buddy_token}))
    first = json.loads(await buddy.recv())
    assert first["type"] == "connected" and first["authenticated"], first
    await buddy.send('{"type":"ping"}')
    assert json.loads(await buddy.recv()) == {"type": "pong"}
    await buddy.send('{"type":"subscribe","skill":"commit"}')
    assert json.loads(await buddy.recv())["skill"] == "commit"
    await buddy.send("no JSON")
    await buddy.send('{"type":"get_metrics"}')
    await buddy.send('{"type":"ping"}')
    assert json.loads(await buddy.recv()) == {"type": "pong"}
    late = await websockets.connect(buddy_url, ssl=tls)
    await late.send('{"token":"nonsense"}')
    try:
        await late.recv()
        raise AssertionError("a bad token was taken")
    except ConnectionClosed as e:
        assert (e.rcvd.code, e.rcvd.reason) == (4001, "Authentication failed"), e
    print("buddy", flush=True)


asyncio.run(main(*sys.argv[1:]))
