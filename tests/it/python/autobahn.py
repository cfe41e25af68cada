"""Autobahn's cases (as the package kosoku drives them) against the echo of an edge.

autobahn.py URL CA TOKEN [CASE ...]

Cases are ids or patterns (`12.1.*`); without any, all are run. The fuzzing client knows no TLS: it talks to a port of
this script's, which does, with the edge's certificate checked. The last line is JSON: how many cases ended how.
"""

import asyncio
import collections
import json
import ssl
import sys
import urllib.parse

import kosoku

AT_ONCE = 4


def take_bytes():
    """kosoku 0.1.0 hands messages to the cases as text of code points 0 to 255; those of chapters 12 and 13 take bytes."""
    import kosoku.cases

    done = set()
    for name, case in kosoku.cases.CASES.items():
        if name.startswith(("12.", "13.")) and (hook := case.onMessage) not in done:
            case.onMessage = (
                lambda self, message, binary, hook=hook: hook(
                    self, message.encode("latin-1") if isinstance(message, str) else message, binary
                )
            )
            done.add(case.onMessage)


async def copy(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except (OSError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def main(url, ca, token, cases):
    edge = urllib.parse.urlsplit(url)
    context = ssl.create_default_context(cafile=ca)

    async def forward(reader, writer):
        try:
            there = await asyncio.open_connection(edge.hostname, edge.port, ssl=context, limit=1 << 20)
            await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))
        except OSError as e:
            print(f"no connection to the edge: {e}", file=sys.stderr)
            writer.close()
        except asyncio.CancelledError:
            # The run is over.
            pass

    take_bytes()
    server = await asyncio.start_server(forward, "127.0.0.1", 0, limit=1 << 20)
    port = server.sockets[0].getsockname()[1]
    echo = f"ws://127.0.0.1:{port}/echo?token={token}"
    try:
        results = await kosoku.run_fuzzingclient(echo, cases or None, None, concurrency=AT_ONCE)
    except kosoku.FailureError as failure:
        results = failure.results
    for result in results:
        if not result.passed:
            print(
                f"{result.case_id}: {result.behavior.value}, {result.behavior_close.value}: {result.result} "
                f"{result.result_close} ({result.remote_close_code} {result.remote_close_reason})",
                file=sys.stderr,
            )
    ended = collections.Counter(result.behavior.value for result in results)
    of = lambda chapter: collections.Counter(
        result.behavior.value for result in results if result.case_id.startswith(chapter)
    )
    report = {
        "cases": len(results),
        "passed": sum(result.passed for result in results),
        "ended": ended,
        "12": of("12."),
        "13": of("13."),
        "other": [r.case_id for r in results if r.behavior.value not in ("OK", "INFORMATIONAL")],
    }
    print(json.dumps(report), flush=True)


asyncio.run(main(*sys.argv[1:4], sys.argv[4:]))
