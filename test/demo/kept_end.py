# The same with the classic mistake: it keeps its copy of end 1, until SIGUSR1 makes it close that.
import signal
from multiprocessing.connection import Connection

end1, end2 = Connection(3), Connection(4)
signal.signal(signal.SIGUSR1, lambda *_: end1.close())
print("keep my copy of end 1")
try:
    while True:
        print("received", repr(end2.recv()))
except EOFError:
    print("EOFError: the end of the pipe")
end2.close()
