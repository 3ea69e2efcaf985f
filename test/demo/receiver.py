# Was given one end of a pipe as descriptor 3; receives and prints for ever.
import faulthandler, signal
from multiprocessing.connection import Connection

faulthandler.register(signal.SIGUSR1)  # on that signal Python writes to stderr where it is, and goes on

conn = Connection(3)
while True:
    print("received", repr(conn.recv()))
