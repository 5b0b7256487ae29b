"""Makes the process that imports it, and those that it forks, end with their parent, even if that one is killed.

The server from which a pool forks its workers imports it when it starts (`stages.run_here`).
"""

from __future__ import annotations

import os
import signal

from harness.parent_death import follow_parent

follow_parent(signal.SIGKILL)
os.register_at_fork(after_in_child=lambda: follow_parent(signal.SIGKILL))
