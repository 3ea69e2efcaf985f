# Was given copies of both ends of a pipe: end 1 as descriptor 3, end 2 as descriptor 4. It reads from end 2.
from multiprocessing.connection import Connection

end1, end2 = Connection(3), Connection(4)
end1.close()  # not mine: as long as I held it, end 2 could never see an end of file
print("closed my copy of end 1")
try:
    while True:
        print("received", repr(end2.recv()))
except EOFError:
    print("EOFError: the end of the pipe")
end2.close()
