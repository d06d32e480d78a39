"""A function whose process ends during INIT."""

import os

os._exit(7)
