#!/usr/bin/python
"""The documentation of an action: see plugins/action/clock_offset.py."""

DOCUMENTATION = r"""
---
module: clock_offset
short_description: Measures how far a machine's clock is from the controller's
description:
  - Asks the machine for its time some times over the connection that is open, and keeps the answer that was quickest.
  - Runs on the controller. Nothing is changed.
author:
  - The authors of ursula
options:
  samples:
    description: How often to ask.
    type: int
    default: 5
"""

EXAMPLES = r"""
- name: Measure the clock
  ursula.cluster.clock_offset:
  register: clock
"""

RETURN = r"""
offset_ms:
  description: The machine's time less the controller's, in milliseconds.
  returned: always
  type: float
error_ms:
  description: How far off the offset can be, in milliseconds.
  returned: always
  type: float
"""
