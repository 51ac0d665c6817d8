"""``python -m kyn_models.cli``: the ``kyn`` command without its ROS verbs, in the form that ``torchrun -m`` starts."""

from __future__ import annotations

import sys

from kyn_models.cli import main

sys.exit(main())
