"""Measures how far a machine's clock is from the controller's, as NTP does: half of the round trip is the error."""

import time

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """See the documentation in plugins/modules/clock_offset.py."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        best = None
        for _sample in range(int(self._task.args.get("samples", 5))):
            began = time.time()
            answer = self._low_level_execute_command("date +%s.%N", sudoable=False)
            ended = time.time()
            if answer.get("rc") != 0:
                raise AnsibleActionFail("date: " + answer.get("stderr", ""))
            remote = float(answer["stdout"].strip().splitlines()[-1])
            offset, error = remote - (began + ended) / 2, (ended - began) / 2
            if best is None or error < best[1]:
                best = (offset, error)
        result.update(changed=False, offset_ms=round(best[0] * 1000, 1), error_ms=round(best[1] * 1000, 1))
        return result
