"""Sends each frame given, and prints the next one that comes for each "-"; then waits until it is stopped."""
import asyncio, ssl, sys
import websockets


async def main(url, ca, token, frames):
    tls = ssl.create_default_context(cafile=ca)
    async with websockets.connect(f"{url}?token={token}", ssl=tls) as ws:
        for frame in frames:
            if frame == "-":
                print(await asyncio.wait_for(ws.recv(), 30), flush=True)
            else:
                await ws.send(frame)
        await ws.wait_closed()


asyncio.run(main(*sys.argv[1:4], sys.argv[4:]))
