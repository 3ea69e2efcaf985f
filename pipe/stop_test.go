package pipe

import "golang.org/x/sys/unix"

// kill is what a kill does to an end, as far as a process can do that to itself:
// its goroutines are gone and its descriptors are closed, and nothing that outlives
// a process has changed, but that what was under way is finished. It returns what a
// keeper has.
func (e *Endpoint) kill() KeptEnd {
	k := e.copyDescriptors()
	if e.out != nil {
		e.out.mu.Lock()
		e.out.ended, e.out.closing = nil, false
		k.Outbox = copyLog(&e.out.log)
		e.out.mu.Unlock()
		e.write.interruptWrite()
		e.out.drainers.Wait()
	}
	if e.in != nil {
		e.in.mu.Lock()
		e.in.ended = nil
		e.in.restLocked(e.in.wants)
		e.in.mu.Unlock()
		e.read.interruptRead()
		e.in.fillers.Wait()
		e.in.mu.Lock()
		k.Inbox = copyLog(&e.in.log)
		e.in.mu.Unlock()
	}
	if !e.Closing() {
		e.abort()
		return k
	}
	if e.out != nil {
		e.out.mu.Lock()
		e.out.rec = nil
		select {
		case <-e.out.flushed:
		default:
			close(e.out.flushed)
		}
		e.out.mu.Unlock()
	}
	<-e.closed
	return k
}

func (e *Endpoint) copyDescriptors() KeptEnd {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := KeptEnd{Read: -1, Write: -1, Inbox: -1, Outbox: -1}
	if e.in != nil && !e.read.isClosed() {
		k.Read = copyFD(e.read.fd())
	}
	switch {
	case e.write == e.read:
		k.Write = k.Read
	case e.out != nil && !e.write.isClosed():
		k.Write = copyFD(e.write.fd())
	}
	return k
}

func copyFD(fd int) int {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1
	}
	return n
}

// copyLog returns a copy of the log's descriptor, -1 where it has none.
func copyLog(l *log) int {
	if s, ok := l.space.(*memfdSpace); ok && !l.retired {
		return copyFD(s.fd)
	}
	return -1
}
