"""unpickled.py: print the pickled Python objects on stdin, one a line. Only for data from programs you trust, as ever with pickle."""

import pickle
import sys

while sys.stdin.buffer.peek(1):
    print(repr(pickle.load(sys.stdin.buffer)))
