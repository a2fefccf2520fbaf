"""What the tests share."""

from __future__ import annotations

import os

# Before TensorFlow is imported anywhere: tests read their own output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
