package system

import (
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// over makes a session that has ended, with exit 7 and a line of output that
// nobody has read.
func over(p *peer) string {
	p.t.Helper()
	name := p.create(sh("echo unread; exit 7"))
	eventually(p.t, "the session has ended", func() bool {
		resp, err := p.sessions.GetSession(p.ctx(), &pipedv1.GetSessionRequest{Session: name})
		return err != nil || resp.GetSession().GetState() == pipedv1.Session_STATE_ENDED
	})
	return name
}

func TestEndedSessionKeepsExitFinalsAndUnreadOutputUntilItIsRemoved(t *testing.T) {
	_, p := start(t)
	name := over(p)
	s := p.get(name)
	if s.GetEndTime() == nil || !s.GetExpireTime().AsTime().After(s.GetEndTime().AsTime()) {
		t.Errorf("ended %v, expires %v", s.GetEndTime(), s.GetExpireTime())
	}
	if exit := s.GetProcesses()[0].GetExit(); exit.GetCode() != 7 {
		t.Errorf("exit %v, want 7", exit)
	}
	in := p.endpoint(at(name, "stdio", 1)).GetInbox()
	if in.GetEnd().GetCause() != pipedv1.EndCause_END_CAUSE_CLOSED || in.GetEnd().GetPosition().GetMessage() != 2 || in.GetQueuedMessages() != 1 {
		t.Errorf("inbox %v, want one unread message and the end", in)
	}
	if got, end := p.everything(at(name, "", 1)); len(got) != 1 || got[0] != "unread" || end.GetBytes() != 7 {
		t.Errorf("%q, %v", got, end)
	}
	_, err := p.sessions.CreateSession(p.ctx(), &pipedv1.CreateSessionRequest{Name: name, Pipes: []*pipedv1.PipeSpec{framed("", "line")}})
	wantReason(t, "its name", err, "SESSION_EXISTS")
	if _, err := p.sessions.DeleteSession(p.ctx(), &pipedv1.DeleteSessionRequest{Session: name}); err != nil {
		t.Errorf("remove without force: %v", err)
	}
	_, err = p.sessions.GetSession(p.ctx(), &pipedv1.GetSessionRequest{Session: name})
	wantReason(t, "get afterwards", err, "SESSION_NOT_FOUND")
}

func TestActiveSessionIsRemovedOnlyByForce(t *testing.T) {
	_, p := start(t)
	name := p.create(&pipedv1.ProcessSpec{Args: []string{"sleep", "1000"}})
	_, err := p.sessions.DeleteSession(p.ctx(), &pipedv1.DeleteSessionRequest{Session: name})
	wantReason(t, "remove", err, "SESSION_ACTIVE")
	p.remove(name)
}

func TestEndedSessionExpires(t *testing.T) {
	_, p := start(t, "--ended-for", "300ms")
	name := over(p)
	active := p.create(nil, framed("", "line"))
	eventually(t, "it is gone", func() bool {
		_, err := p.sessions.GetSession(p.ctx(), &pipedv1.GetSessionRequest{Session: name})
		return reasonOf(err) == "SESSION_NOT_FOUND"
	})
	if s := p.get(active); s.GetState() != pipedv1.Session_STATE_ACTIVE {
		t.Errorf("the other is %v", s.GetState())
	}
}

func TestOnlyTheLastEndedSessionsAreKept(t *testing.T) {
	_, p := start(t, "--ended-max", "3")
	var names []string
	for range 6 {
		names = append(names, over(p))
	}
	eventually(t, "three are left", func() bool {
		info, err := p.server.GetServerInfo(p.ctx(), &pipedv1.GetServerInfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return info.GetEndedSessions() == 3
	})
	for i, name := range names {
		_, err := p.sessions.GetSession(p.ctx(), &pipedv1.GetSessionRequest{Session: name})
		if kept := err == nil; kept != (i >= 3) {
			t.Errorf("session %d of 6: %v", i+1, err)
		}
	}
}

func TestLostConnectionClosesNothing(t *testing.T) {
	d, p := start(t)
	q := dial(t, d.Addr)
	name := q.create(stdio(&pipedv1.ProcessSpec{Args: []string{"cat"}}, "line"))
	q.send(&pipedv1.SendOpen{Endpoint: at(name, "", 1), WriterId: "w"}).message(1, "x")
	q.recv(&pipedv1.RecvOpen{Endpoint: at(name, "", 1), ConsumerId: "c"}).batch()
	if err := q.conn.Close(); err != nil {
		t.Fatal(err)
	}
	if next := p.send(&pipedv1.SendOpen{Endpoint: at(name, "", 1), WriterId: "w"}).opened.GetExpected().GetMessage(); next != 2 {
		t.Errorf("the writer goes on at %d, want 2", next)
	}
	if b := p.recv(&pipedv1.RecvOpen{Endpoint: at(name, "", 1), ConsumerId: "c"}).batch(); string(b.GetData()) != "x" {
		t.Errorf("the consumer gets %q again, want x", b.GetData())
	}
}
