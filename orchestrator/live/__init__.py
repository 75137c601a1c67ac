"""A sweep seen while it runs: by the one that runs it, and by anyone who can read its store.

    events.py     what happens in a sweep, and its lines in sweep.jsonl
    course.py     events and measurements -> how far the sweep is, with the time left                 pure
    trend.py      what one run has measured so far: trend, speed                                      pure
    state.py      how far it is: what is shown, and nothing else                                      pure
    render.py     that -> a screen of a given width and height                                        pure [rich]
    lines.py      events -> plain lines, one each, for pipes and logs
    reporter.py   what the sweep talks to: course, journal, lines and screen
    screen.py     the terminal while the screen is up
    watch.py      the store -> course -> screen: `status --watch`
    follow.py     the log of one run as it grows: `status --follow`
    attempts.py   unfinished attempts, for `status`

The sweep writes its events to `sweep.jsonl` in the store, and feeds them to a course; a watcher reads them from there
and feeds them to another. So both show the same screen.
"""

from orchestrator.live.attempts import Live, live

__all__ = ["Live", "live"]
