"""A disk or a bucket that takes its time keeps nobody waiting but who needs what it reads."""

from __future__ import annotations

from threading import Event

from rootstock_server.engine.request import Token


def test_rows_run_to_their_end_while_a_version_is_being_read(rig, monkeypatch):
    one = rig("llama")
    slow, *others = one.adapters
    let_go, reading, fetch = Event(), Event(), one.engine.residency._fetch

    def held(digest):
        if digest == slow:
            reading.set()
            assert let_go.wait(60)
        return fetch(digest)

    monkeypatch.setattr(one.engine.residency, "_fetch", held)
    wanted = one.generate([20, 30], slow)
    one.engine.apply(wanted)
    early = one.engine.step()
    assert reading.wait(60)
    # Newcomers, of versions that are read meanwhile, and of the same one, which waits with it.
    one.prove([one.generate([20, 30, n], version) for n, version in enumerate([None, *others], 40)])
    one.prove([one.encode([20, 30], None, list(one.heads)), one.generate([50], others[0])])
    assert early == [] and one.engine.heartbeat().waiting == 1
    let_go.set()
    events = []
    while not any(isinstance(event, Token) and event.finish_reason for event in events):
        one.engine.wake()
        events += one.engine.step()
    one.check(wanted, events)
