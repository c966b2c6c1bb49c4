"""Remembered findings: a call that was answered once is not computed again."""

from collections import OrderedDict

from pixelis.tools.call import Failure
from pixelis.tools.tool import Ask, Outcome

COUNT = 4096


class Memo:
    """Findings by the keys of their asks (tool, arguments, media hash); the least recently used goes first.

    Outcomes and a tool's own failures are kept, infrastructure failures are not: they may work next time.
    """

    def __init__(self, count: int = COUNT) -> None:
        self.count = count
        self._found: OrderedDict[str, Outcome | Failure] = OrderedDict()

    def get(self, ask: Ask) -> Outcome | Failure | None:
        """What was found, if it is remembered."""
        if ask.key in self._found:
            self._found.move_to_end(ask.key)
        return self._found.get(ask.key)

    def put(self, ask: Ask, found: Outcome | Failure) -> None:
        """Remember what was found."""
        if isinstance(found, Failure) and found.cls == "infra":
            return
        self._found[ask.key] = found
        while len(self._found) > self.count:
            self._found.popitem(last=False)
