"""The flame graph of a profile: a page of pyinstrument's, whose first level are the phases."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

from fcil.profiling.phases import MEANING, Frame
from fcil.profiling.profile import Profile

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline' data:; img-src data:"
"""Content security policy of the page, under which a browser loads nothing from anywhere."""
_FONTS = re.compile(r"https://fonts\.[^\"']*")
"""What pyinstrument's page would load: two fonts, without which it takes those of the system."""
_ROOT = "run\x00<run>\x000"
_IMPORTS = "<frozen importlib"


def flame_page(profile: Profile, title: str) -> str:
    """The page as HTML: everything in one file. Its timeline is the flame graph; times are processor seconds."""
    from pyinstrument.renderers.html import HTMLRenderer
    from pyinstrument.session import Session

    order = {phase: number for number, phase in enumerate(MEANING)}
    stacks = sorted(profile.stacks.items(), key=lambda item: (order[item[0][0]], item[0][1]))
    records = [([_ROOT, f"{phase}\x00<phase>\x000", *_told(frames)], seconds) for (phase, frames), seconds in stacks]
    seconds = profile.total.processor
    session = Session(
        frame_records=records,
        start_time=time.time(),
        duration=seconds,
        min_interval=0.0001,
        max_interval=0.0001,
        sample_count=profile.samples,
        start_call_stack=[_ROOT],
        target_description=title,
        cpu_time=seconds,
        sys_path=[],
        sys_prefixes=["lib/"],
    )
    page = _FONTS.sub("data:text/css,", HTMLRenderer().render(session))
    return page.replace("<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}">', 1)


def _told(frames: Sequence[Frame]) -> Iterator[str]:
    """Yield frames as pyinstrument has them, without those of the import system, of which there are five a module."""
    for frame in frames:
        if not frame.place.startswith(_IMPORTS):
            yield f"{frame.function}\x00{frame.place}\x00{frame.line}".replace("</", "< /")  # no end of the script
