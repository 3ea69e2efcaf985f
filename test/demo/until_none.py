# Was given one end of a pipe as descriptor 3; receives and prints until a None comes.
from multiprocessing.connection import Connection

conn = Connection(3)
while (value := conn.recv()) is not None:
    print("received", repr(value))
print("that was None: done")
