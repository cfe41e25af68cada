"""The client of the package mcp-common against a real edge: URL, CA, and a good, a bad and an expired token."""
import asyncio, sys, time
from mcp_common.websocket import WebSocketClient


def said(word):
    print(word, flush=True)


async def heard(word):
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    assert line.strip() == word, line


async def refused(url, ca, token):
    client = WebSocketClient(url, token=token, reconnect=False, ca_file=ca)
    try:
        await client.connect()
    except ConnectionError as e:
        assert "Authentication failed" in str(e), e
    else:
        raise AssertionError("a bad token was taken")


async def main(url, ca, good, bad, expired):
    await refused(url, ca, bad)
    await refused(url, ca, expired)
    client = WebSocketClient(url, token=good, ca_file=ca)
    await client.connect()
    assert client.is_connected and client.is_authenticated and client.is_secure
    began = time.monotonic()
    answer = await client.send_request("get_pool_status", {"pool_id": "p1"}, timeout=5)
    assert (answer.type, answer.error_code) == ("error", "SERVER_ERROR"), answer
    assert time.monotonic() - began < 1, "nobody serves it, and that is to be said at once"
    said("nobody")
    await heard("served")
    # The service tells the room after it has answered: of this pool, that may be when the client is in the room of the next.
    answer = await client.send_request("get_pool_status", {"pool_id": "p0"}, timeout=5)
    assert answer.type == "response" and answer.data["status"] == "idle", answer
    assert answer.data["asked_by"].startswith("u1."), answer
    answer = await client.send_request("subscribe", {"channel": "workflow:w1"}, timeout=5)
    assert (answer.type, answer.error_code) == ("error", "FORBIDDEN"), answer
    answer = await client.send_request("refresh_token", {"token": good}, timeout=5)
    assert answer.data["status"] == "refreshed", answer
    answer = await client.send_request("refresh_token", {"token": bad}, timeout=5)
    assert answer.error_code == "AUTH_FAILED", answer
    events = asyncio.Queue()

    @client.on_event("pool.asked")
    async def asked(data):
        events.put_nowait(data)

    answer = await client.send_request("subscribe", {"channel": "pool:p1"}, timeout=5)
    assert answer.data == {"status": "subscribed", "channel": "pool:p1"}, answer
    # Confirmed by nothing, but remembered for after a reconnect.
    await client.subscribe_to_room("pool:p1")
    await client.send_request("get_pool_status", {"pool_id": "p1"}, timeout=5)
    assert await asyncio.wait_for(events.get(), 5) == {"pool_id": "p1"}
    answer = await client.send_request("get_presence", {"channel": "pool:p1"}, timeout=5)
    assert any(member.startswith("u1.") for member in answer.data["members"]), answer
    answer = await client.send_request("get_recent", {"channel": "pool:p1", "limit": 1}, timeout=5)
    assert answer.data["count"] == 1, answer
    answer = await client.send_request("unsubscribe", {"channel": "pool:p1"}, timeout=5)
    assert answer.data["status"] == "unsubscribed", answer
    await client.send_request("get_pool_status", {"pool_id": "p1"}, timeout=5)
    answer = await client.send_request("get_presence", {"channel": "pool:p1"}, timeout=5)
    assert events.empty(), "nothing of a room that was left"
    # The client's own two words for rooms, which nothing confirms.
    await client.subscribe_to_room("pool:p3")
    await client.send_request("get_pool_status", {"pool_id": "p3"}, timeout=5)
    assert await asyncio.wait_for(events.get(), 5) == {"pool_id": "p3"}
    await client.unsubscribe_from_room("pool:p3")
    assert client.rooms == {"pool:p1"}, client.rooms
    await client.send_request("get_pool_status", {"pool_id": "p3"}, timeout=5)
    answer = await client.send_request("get_presence", {"channel": "pool:p3"}, timeout=5)
    assert not any(member.startswith("u1.") for member in answer.data["members"]), answer
    assert events.empty(), "nothing of a room that was left so"
    said("answered")
    await heard("restarted")
    until = time.monotonic() + 30
    while True:
        try:
            answer = await client.send_request("get_pool_status", {"pool_id": "p2"}, timeout=5)
            if answer.type == "response":
                break
        except (ConnectionError, TimeoutError):
            pass
        assert time.monotonic() < until, "it did not come back"
        await asyncio.sleep(0.2)
    # It has joined its room again by itself.
    while events.empty():
        await client.send_request("get_pool_status", {"pool_id": "p1"}, timeout=5)
        assert time.monotonic() < until, "its room did not come back"
        await asyncio.sleep(0.2)
    said("back")
    await client.disconnect()


asyncio.run(main(*sys.argv[1:]))
