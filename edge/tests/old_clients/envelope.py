"""The client of the package mcp-common, as its users call it: URL, a good token, a bad one. Prints `ok` when all went well."""

import asyncio
import sys

from mcp_common.websocket import WebSocketClient


async def main(url: str, good: str, bad: str) -> None:
    client = WebSocketClient(url, token=good, reconnect=False)
    await client.connect()
    assert client.is_connected and client.is_authenticated

    heard = asyncio.Event()
    data = {}

    @client.on_event("pool.scaled")
    async def scaled(got):
        data.update(got)
        heard.set()

    answer = await client.send_request("get_pool_status", {"pool_id": "p1"}, timeout=5)
    assert answer.type == "response", answer
    assert answer.data == {"pool_id": "p1", "status": "idle"}, answer
    await asyncio.wait_for(heard.wait(), 5)
    assert data == {"pool_id": "p1", "worker_count": 3}, data

    answer = await client.send_request("subscribe", {"channel": "workflow:w1"}, timeout=5)
    assert (answer.type, answer.error_code) == ("error", "FORBIDDEN"), answer
    answer = await client.send_request("nosuch", {}, timeout=5)
    assert answer.error_code == "UNKNOWN_REQUEST", answer
    answer = await client.send_request("refresh_token", {"token": good}, timeout=5)
    assert answer.data["status"] == "refreshed", answer
    await client.subscribe_to_room("pool:p1")
    answer = await client.send_request("get_pool_status", {}, timeout=5)
    assert answer.error_code == "REQUEST_ERROR", answer
    await client.disconnect()

    refused = WebSocketClient(url, token=bad, reconnect=False)
    try:
        await refused.connect()
    except ConnectionError as e:
        assert "Authentication failed" in str(e), e
    else:
        raise AssertionError("a bad token was taken")
    print("ok")


asyncio.run(main(*sys.argv[1:]))
