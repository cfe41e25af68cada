"""Joins an old server to the mesh: answers the requests of its clients, and feeds its events into rooms.

    python feed_rooms.py wss://edge.example.com:8690/ [CA.pem]

The environment has TRISHULA_TOKEN, a token of the service for the agent `service`. Each line of standard input is an event:

    {"room": "pool:p1", "event": "pool.scaled", "data": {"pool_id": "p1", "worker_count": 3}}

An event is kept until the mesh has it on disk, and is sent again after a lost connection; the mesh knows it by its id. Give a
line an "id" of your own if it may be written twice. Needs Python 3.9 and the package websockets, 13 or newer.
"""
import asyncio, json, os, random, ssl, sys, threading, time, uuid

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

UNCONFIRMED = 64    # events that the mesh may owe its word for; then standard input is not read
LARGEST = 1_000_000  # bytes of an event; a frame has at most 1 MiB


def get_pool_status(data):
    """What the old server knows: ask it here."""
    return {"pool_id": data["pool_id"], "status": "idle", "workers": []}


REQUESTS = {"get_pool_status": get_pool_status}


def answer(command):
    """The RESULT of a client's request; with `error_code` in it the client gets an error."""
    try:
        asked = command["payload"]
        if asked["event"] in REQUESTS:
            payload = {"data": REQUESTS[asked["event"]](asked["data"])}
        else:
            payload = {"error_code": "UNKNOWN_REQUEST", "error_message": f"Unknown request event: {asked['event']}"}
    except Exception as e:  # whatever is wrong with one request, the next one is answered
        payload = {"error_code": "INTERNAL_ERROR", "error_message": f"{type(e).__name__}: {e}"}
    # Whoever asked is there now, or gone for good: nothing is kept for it.
    return {"type": "RESULT", "class": "live", "to": command["from"], "reply_to": command["id"], "payload": payload}


class Feed:
    """Events on their way into rooms, in the order in which they came."""

    def __init__(self):
        self.unconfirmed = {}  # by id
        self.sent = set()      # of those, over this connection
        self.places = asyncio.Semaphore(UNCONFIRMED)
        self.more = asyncio.Event()
        self.quiet_until = 0.0

    async def take(self, line):
        try:
            event = json.loads(line)
            id, body = event.get("id") or str(uuid.uuid4()), {"event": event["event"], "data": event["data"]}
            frame = {"type": "PUBLISH", "to": f"room:{event['room']}", "id": id, "timestamp": int(time.time() * 1000),
                     "receipt": "accepted", "payload": body}
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            return say(f"not an event ({type(e).__name__}: {e}): {line.strip()[:200]}")
        if len(json.dumps(frame)) > LARGEST:
            return say(f"event {id} is dropped: more than {LARGEST} bytes")
        await self.places.acquire()
        if id in self.unconfirmed:
            return self.places.release()
        self.unconfirmed[id] = frame
        self.more.set()

    async def write(self, ws):
        self.sent.clear()
        while True:
            self.more.clear()
            await asyncio.sleep(max(0.0, self.quiet_until - time.monotonic()))
            id = next((id for id in self.unconfirmed if id not in self.sent), None)
            if id is None:
                await self.more.wait()
            else:
                self.sent.add(id)
                await ws.send(json.dumps(self.unconfirmed[id]))

    def forget(self, id):
        if self.unconfirmed.pop(id, None):
            self.sent.discard(id)
            self.places.release()

    def refused(self, id, error):
        if id in self.unconfirmed and error["retry"]:
            self.quiet_until = time.monotonic() + error.get("retry_after_ms", 1000) / 1000
            self.sent.discard(id)
            self.more.set()
        else:
            say(f"{id} was refused: {error['message']}")
            self.forget(id)


async def serve(ws, feed):
    await ws.send(json.dumps({"type": "REGISTER", "id": "register"}))
    writing = None
    try:
        async for text in ws:
            frame = json.loads(text)
            kind, about = frame["type"], frame.get("reply_to")
            if kind == "COMMAND":
                await ws.send(json.dumps(answer(frame)))
            elif kind == "REGISTERED":
                say("registered as {namespace}/{agent} at node {node}".format(**frame["payload"]))
                writing = asyncio.create_task(feed.write(ws))
            elif kind == "RECEIPT":
                feed.forget(about)
            elif kind == "ERROR" and about == "register":
                raise ConnectionError(frame["payload"]["message"])
            elif kind == "ERROR" and frame["from"] == "mesh":
                feed.refused(about, frame["payload"])
    finally:
        if writing:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)


async def main(url, ca=None):
    feed, loop = Feed(), asyncio.get_running_loop()

    def read():
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(feed.take(line), loop).result()

    threading.Thread(target=read, daemon=True).start()
    tls = ssl.create_default_context(cafile=ca)
    headers = {"Authorization": "Bearer " + os.environ["TRISHULA_TOKEN"]}
    attempt = 0
    while True:
        began, told = time.monotonic(), 0.0
        try:
            # The port may speak the service's own dialect: who offers this subprotocol speaks the mesh's.
            async with connect(url, ssl=tls, additional_headers=headers, subprotocols=["trishula.v2+json"]) as ws:
                await serve(ws, feed)
                why = f"closed with {ws.close_code} {ws.close_reason}"
        except ConnectionClosed as closed:
            why = str(closed)
            if closed.rcvd and closed.rcvd.code >= 4400:  # docs/protocol.md, section 12: not unchanged
                sys.exit(f"feed_rooms: {why}")
            if closed.rcvd and closed.rcvd.reason.startswith("retry_after_ms="):
                told = int(closed.rcvd.reason.split("=")[1]) / 1000
        except InvalidStatus as refused:
            why = str(refused)
            if refused.response.status_code in (401, 403):
                sys.exit(f"feed_rooms: {why}")
        except (OSError, InvalidHandshake, asyncio.TimeoutError) as e:
            why = f"{type(e).__name__}: {e}"
        if time.monotonic() - began > 30:
            attempt = 0
        wait = told or random.uniform(0, min(30, 0.5 * 2**attempt))
        attempt = min(attempt + 1, 6)
        say(f"{why}; again in {wait:.1f} s")
        await asyncio.sleep(wait)


def say(what):
    print(what, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
