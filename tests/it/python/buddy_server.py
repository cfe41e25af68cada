"""The server of the package session-buddy as it is, with its own store: port, and a folder to keep that in. What it tells its
clients it prints as well, as docs/examples/feed_rooms.py reads it. Each line that it reads is a skill that was used once more."""
import asyncio, json, sqlite3, sys
from datetime import UTC, datetime
from pathlib import Path

from session_buddy.realtime import RealTimeMetricsServer
from session_buddy.storage.migrations import get_migration_manager


def used(storage, skill):
    now = datetime.now(UTC).isoformat()
    storage.store_invocation(skill, now, "session-1", completed=True, duration_seconds=1.5)


def feed(message):
    print(json.dumps({"room": "metrics", "event": message["type"], "data": message["data"]}), flush=True)


async def main(port, folder):
    path = Path(folder) / "skills.db"
    get_migration_manager(path).migrate()
    server = RealTimeMetricsServer("127.0.0.1", int(port), path, update_interval=0.2, require_auth=True)
    assert server.require_auth, "set SESSION_BUDDY_AUTH_ENABLED=true"
    for skill in ["commit", "commit", "review"]:
        used(server.storage, skill)
    # The package reads anomalies, and writes none.
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO skill_anomalies (skill_name, detected_at, anomaly_type, deviation_score) "
                   "VALUES ('commit', datetime('now'), 'spike', 3.5)")
    server.register_metrics_subscriber(feed)
    await server.start()
    print("listening", file=sys.stderr, flush=True)
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        used(server.storage, line.strip())


asyncio.run(main(*sys.argv[1:]))
