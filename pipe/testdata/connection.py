# Sends on descriptor 3 what testdata/connection.bin holds: what Python's own
# Connection writes for messages of several sizes.
from multiprocessing.connection import Connection

c = Connection(3)
for message in (b"", b"a", b"hello", b"", bytes(range(256)), b"\n\r\n" * 100):
    c.send_bytes(message)
