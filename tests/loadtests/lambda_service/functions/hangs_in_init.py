"""A function whose INIT never ends."""

import time

while True:
    time.sleep(1)
