"""A client of session-buddy: what the server of the package tells it is what two edges have to tell it, frame by frame but for
the time. The server's URL, and URL and CA of each edge; tokens are the package's own, by its own environment.

The package has no client. So this one is `websockets`, and says what that server reads."""
import asyncio, json, ssl, sys, time
from datetime import datetime, timedelta

from mcp_common.websocket.auth import WebSocketAuthenticator
from session_buddy.realtime import auth
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

WITHIN = 30
REFUSED = (4001, "Authentication failed")
PING = {"type": "ping"}
# Every form of it: one skill, another, all by null or by nothing, by the key of the old documentation, and by an empty name.
SUBSCRIBE = [{"skill": "commit"}, {"skill": "review"}, {"skill": None}, {"skill": "commit"}, {}, {"skill": "commit"},
             {"skill_name": "review"}, {"skill": "commit"}, {"skill": ""}]


def token(seconds=3600):
    auth.TOKEN_EXPIRY = seconds
    return auth.generate_token("u1")


class Client:
    """A connection on which a token was shown."""

    def __init__(self, ws):
        self.ws = ws

    async def say(self, what):
        await self.ws.send(what if isinstance(what, (str, bytes)) else json.dumps(what))

    async def next(self):
        frame = json.loads(await asyncio.wait_for(self.ws.recv(), WITHIN))
        if frame["type"] != "pong":
            assert datetime.fromisoformat(frame["timestamp"]).utcoffset() == timedelta(0), frame
            frame["timestamp"] = "some time"
        return frame

    async def answer(self, what):
        """What comes for it, behind updates that were on their way."""
        await self.say(what)
        while (frame := await self.next())["type"] == "metrics_update":
            pass
        return frame

    async def update(self):
        frame = await self.next()
        assert frame["type"] == "metrics_update", frame
        return frame

    async def until_pong(self):
        """Everything that came before the answer to this ping."""
        await self.say(PING)
        frames = []
        while (frame := await self.next()) != {"type": "pong"}:
            frames.append(frame)
        return frames


async def refused(url, tls, first):
    """What a client hears that begins so; `None`: that says nothing."""
    async with connect(url, ssl=tls) as ws:
        if first is not None:
            await ws.send(first if isinstance(first, str) else json.dumps(first))
        try:
            return await asyncio.wait_for(ws.recv(), WITHIN)
        except ConnectionClosed as e:
            return e.rcvd and (e.rcvd.code, e.rcvd.reason)


async def three_updates(url, tls):
    """Two rounds at least, at another client of the same server."""
    async with connect(url, ssl=tls) as ws:
        client = Client(ws)
        await client.answer({"token": token()})
        for _ in range(3):
            await client.update()


async def talk(url, tls):
    """All that a client says, and what it is told."""
    async with connect(url, ssl=tls) as ws:
        client = Client(ws)
        told = [await client.answer({"token": token()}), await client.update()]
        for form in SUBSCRIBE:
            told += [form, await client.answer({"type": "subscribe"} | form), await client.update()]
        told += ["nosuch", await client.answer({"type": "subscribe", "skill": "nosuch"})]
        await three_updates(url, tls)
        told += await client.until_pong()
        await client.say({"type": "unsubscribe"})
        told += ["unsubscribed", await client.answer(PING), await client.update()]
        # Nothing is said to these. There is no refresh: a second token, good or bad, is one of them.
        for ignored in ["no JSON", "[]", "5", {}, {"type": "get_metrics"}, {"token": token()}, {"token": "nonsense"}]:
            await client.say(ignored)
            told += ["ignored", await client.answer(PING)]
        told += ["binary", await client.answer(b'{"type": "ping"}'), await client.update()]
        return told


def check(told):
    """That what is compared is what it should be: of the package's own server."""
    names = [[row["skill_name"] for row in frame["data"]["top_skills"]] for frame in told
             if isinstance(frame, dict) and frame.get("type") == "metrics_update"]
    one, other, both = ["commit"], ["review"], ["commit", "review"]
    assert names == [both, one, other, both, one, both, one, both, one, both, both, both], names
    assert told[0]["authenticated"] and len(told[1]["data"]["anomalies"]) == 1, told[:2]


async def ends(url, tls, seconds):
    """How a connection ends whose token does."""
    async with connect(url, ssl=tls) as ws:
        client = Client(ws)
        assert (await client.answer({"token": token(seconds)}))["authenticated"]
        try:
            while True:
                await client.next()
        except ConnectionClosed as e:
            return e.rcvd and (e.rcvd.code, e.rcvd.reason)


class Reader:
    """Reads of one skill, and comes back by itself: the way that `websockets` has for it."""

    def __init__(self, url, tls):
        self.connected = self.total = 0
        self.task = asyncio.create_task(self.read(url, tls))

    async def read(self, url, tls):
        async for ws in connect(url, ssl=tls):
            client = Client(ws)
            try:
                await client.answer({"token": token()})
                confirmed = await client.answer({"type": "subscribe", "skill": "review"})
                assert confirmed["skill"] == "review", confirmed
                self.connected += 1
                while True:
                    data = (await client.update())["data"]
                    [row], anomalies = data["top_skills"], data["anomalies"]
                    assert (row["skill_name"], anomalies) == ("review", []), data
                    self.total = row["total_invocations"]
            except ConnectionClosed:
                self.total = 0


async def until(readers, totals):
    began = time.monotonic()
    while (seen := [reader.total for reader in readers]) != totals:
        for reader in readers:
            if reader.task.done():
                reader.task.result()
        assert time.monotonic() - began < WITHIN, f"{seen}, not {totals}"
        await asyncio.sleep(0.02)


def said(word):
    print(word, flush=True)


async def main(old, near, near_ca, far, far_ca):
    edges = [(near, ssl.create_default_context(cafile=near_ca)), (far, ssl.create_default_context(cafile=far_ca))]
    places = [(old, None), *edges]
    foreign = WebSocketAuthenticator(secret="a secret of somebody else, who is long").create_token({"user_id": "u1"})
    firsts = [{"token": bad} for bad in ["nonsense", token(-60), foreign, "", None, 5]]
    firsts += [{}, "no JSON", "[]", PING, {"type": "subscribe", "skill": "commit"}, None]
    tries = [(place, first) for place in places for first in firsts]
    heard = await asyncio.gather(*(refused(*place, first) for place, first in tries))
    others = [(place[0], first, end) for (place, first), end in zip(tries, heard) if end != REFUSED]
    assert not others, others
    said("refused")
    told = await asyncio.gather(*(talk(*place) for place in places))
    check(told[0])
    for place, other in zip(edges, told[1:]):
        for theirs, ours in zip(told[0], other, strict=True):
            # As text: the order of keys and the kind of a number count as well.
            assert json.dumps(theirs) == json.dumps(ours), (place[0], theirs, ours)
    said("the same")
    readers = [Reader(*place) for place in places]
    await until(readers, [1, 1, 1])
    said("reading")
    await until(readers, [2, 2, 2])
    said("of another node")
    await until(readers, [3, 3, 0])
    said("lost")
    await until(readers, [4, 4, 4])
    assert [reader.connected for reader in readers] == [1, 1, 2]
    said("back")
    # The package's server never looks at a token again; here its end is the end.
    heard = await asyncio.gather(*(ends(*edge, 5) for edge in edges))
    assert heard == [REFUSED] * 2, heard
    said("over")


asyncio.run(main(*sys.argv[1:]))
