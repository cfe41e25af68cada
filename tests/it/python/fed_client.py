"""A client of the old service mahavishnu, at an edge far from the service: URL, CA and token. With the package mcp-common where
this Python has it; else the same frames by hand."""
import asyncio, json, ssl, sys, time, uuid

try:
    from mcp_common.websocket import WebSocketClient
except ImportError:
    import websockets

    WebSocketClient = None

WITHIN = 30


class Packaged:
    """The real client."""

    async def connect(self, url, ca, token):
        self.client = WebSocketClient(url, token=token, ca_file=ca)
        self.events = asyncio.Queue()
        await self.client.connect()
        assert self.client.is_authenticated

        @self.client.on_event("pool.scaled")
        async def scaled(data):
            self.events.put_nowait(data)

    async def request(self, event, data):
        answer = await self.client.send_request(event, data, timeout=WITHIN)
        return answer.type, answer.error_code, answer.data

    async def event(self):
        return await asyncio.wait_for(self.events.get(), WITHIN)


class Plain:
    """The frames that it sends and waits for."""

    async def connect(self, url, ca, token):
        tls = ssl.create_default_context(cafile=ca)
        self.ws, self.events = await websockets.connect(url, ssl=tls), []
        kind, code, data = await self.request("auth", {"token": token})
        assert (kind, data["status"]) == ("response", "authenticated"), code
        greeting = await self.next()
        assert greeting["event"] == "session.created", greeting

    async def next(self):
        frame = json.loads(await asyncio.wait_for(self.ws.recv(), WITHIN))
        assert len(frame.keys() & {"id", "correlation_id", "type", "event", "data", "timestamp", "room"}) == 7, frame
        return frame

    async def request(self, event, data):
        id = str(uuid.uuid4())
        await self.ws.send(json.dumps({"type": "request", "event": event, "data": data, "id": id}))
        while (frame := await self.next())["correlation_id"] != id:
            self.events.append(frame)
        return frame["type"], frame["error_code"], frame["data"]

    async def event(self):
        frame = self.events.pop(0) if self.events else await self.next()
        assert (frame["type"], frame["event"], frame["room"]) == ("event", "pool.scaled", "pool:p1"), frame
        return frame["data"]


def said(word):
    print(word, flush=True)


async def heard(word):
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    assert line.strip() == word, line


async def main(url, ca, token):
    client = Packaged() if WebSocketClient else Plain()
    await client.connect(url, ca, token)
    began = time.monotonic()
    kind, code, _ = await client.request("get_pool_status", {"pool_id": "p1"})
    assert (kind, code) == ("error", "SERVER_ERROR"), (kind, code)
    assert time.monotonic() - began < 1, "nobody serves it, and that is to be said at once"
    said("nobody")
    await heard("served")
    while True:  # the registration is on its way to this node
        kind, code, data = await client.request("get_pool_status", {"pool_id": "p1"})
        if kind == "response":
            break
        assert code == "SERVER_ERROR", code
        await asyncio.sleep(0.05)
    assert data == {"pool_id": "p1", "status": "idle", "workers": []}, data
    kind, code, _ = await client.request("get_workflow_status", {"workflow_id": "w1"})
    assert (kind, code) == ("error", "UNKNOWN_REQUEST"), (kind, code)
    kind, _, data = await client.request("subscribe", {"channel": "pool:p1"})
    assert (kind, data) == ("response", {"status": "subscribed", "channel": "pool:p1"}), data
    said("subscribed")
    for n in range(1, 5):
        data = await client.event()
        assert data == {"pool_id": "p1", "worker_count": n}, (n, data)
        said(f"scaled to {n}")


asyncio.run(main(*sys.argv[1:]))
