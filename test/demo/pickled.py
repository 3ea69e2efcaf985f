"""pickled.py WORD...: write one Python object to stdout, pickled, as Connection.send() would.

The words are a Python literal (123456, None, [1, 2]) or else plain text (Hello 0).
"""

import ast
import pickle
import sys

words = " ".join(sys.argv[1:])
try:
    value = ast.literal_eval(words)
except (ValueError, SyntaxError):
    value = words
sys.stdout.buffer.write(pickle.dumps(value))
