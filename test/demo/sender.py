# Was given one end of a pipe as descriptor 3; sends one object.
from multiprocessing.connection import Connection

conn = Connection(3)
conn.send("Hello")
conn.close()
