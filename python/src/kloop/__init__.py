# SPDX-License-Identifier: MulanPSL-2.0
"""asyncio on io_uring.

    import kloop

    kloop.run(main())                    # as asyncio.run(), on a kloop.Loop
    loop = kloop.new_event_loop()        # for asyncio.Runner(loop_factory=...)

Where the kernel or a container denies io_uring, new_event_loop() raises
IoUringUnavailable, which says why and what to do; with fallback=True, or
KLOOP_FALLBACK=1 in the environment, it warns once and gives asyncio's loop.
"""

from __future__ import annotations

import sys

from . import files
from ._binary_file import BinaryFile
from ._files import open
from ._kloop import Handle, IoUringUnavailable, TimerHandle, info
from ._records import DnsRecord
from ._resolver import DnsAnswer, DnsError, DnsServer, Resolver
from ._text_file import TextFile
from .loop import Loop
from .runners import new_event_loop, run

__version__ = "0.1.0"

__all__ = [
    "BinaryFile",
    "DnsAnswer",
    "DnsError",
    "DnsRecord",
    "DnsServer",
    "Handle",
    "IoUringUnavailable",
    "Loop",
    "Resolver",
    "TextFile",
    "TimerHandle",
    "files",
    "info",
    "install",
    "new_event_loop",
    "open",
    "run",
]

if sys.version_info < (3, 14):
    from .policy import EventLoopPolicy, install

    __all__ += ["EventLoopPolicy"]
else:
    # asyncio's policies are deprecated there, and go with Python 3.16.
    def install() -> None:
        """Not for this Python: raises RuntimeError."""
        raise RuntimeError(
            "kloop.install() is for Python before 3.14, whose event loop policies are "
            "deprecated since; use kloop.run(main()), or "
            "asyncio.run(main(), loop_factory=kloop.new_event_loop)")
