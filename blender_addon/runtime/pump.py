"""The timer that carries news from the threads to Blender's main thread, within a budget.

Timers never fire in the bpy module: tests and scripts call `tick` themselves.
"""

from __future__ import annotations

import collections
import logging
import time

import bpy

from . import session

logger = logging.getLogger(__name__)

BUDGET_SECONDS = 0.005  # a 60 Hz frame has 16 ms; a third of it is not felt
BUSY_INTERVAL = 0.1
IDLE_INTERVAL = 1.0

tick_seconds: collections.deque[float] = collections.deque(maxlen=10_000)
"""How long the latest ticks held the main thread, applying results included; `build.py bench` reads it."""


def start() -> None:
    """Begin to tick. The timer survives the opening of other files."""
    if not bpy.app.timers.is_registered(tick):
        bpy.app.timers.register(tick, first_interval=BUSY_INTERVAL, persistent=True)


def stop() -> None:
    """End ticking."""
    if bpy.app.timers.is_registered(tick):
        bpy.app.timers.unregister(tick)


def tick() -> float:
    """Move what has arrived, redraw on change, apply one waiting result. Returns the next interval in s.

    An exception here would end the timer, and with it every job, until Blender starts again: it goes into the log.
    """
    current = session.get()
    begin = time.perf_counter()
    try:
        if current.advance(begin + BUDGET_SECONDS):
            redraw()
        if current.apply_next():
            redraw()
    except Exception:
        logger.exception("a tick failed")
    tick_seconds.append(time.perf_counter() - begin)
    return BUSY_INTERVAL if current.lively else IDLE_INTERVAL


def redraw() -> None:
    """Have the sidebars that show our panels drawn again."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()
