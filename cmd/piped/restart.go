package main

import (
	"fmt"
	"time"

	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/server"
	"github.com/piped-dev/piped/session"
)

// A restart is what the start of this daemon came to.
type restart struct {
	recovered session.Recovered
	at        time.Time
	// again: there was a daemon before, and pause is how long nobody served.
	again bool
	pause time.Duration
}

func newRestart(estate *keeper.Estate, recovered session.Recovered) restart {
	r := restart{recovered: recovered, at: time.Now(), again: !estate.Gone.IsZero()}
	if r.again {
		r.pause = r.at.Sub(estate.Gone).Round(time.Millisecond)
	}
	return r
}

// String is for the status line of a service manager.
func (r restart) String() string {
	if !r.again {
		return "serving"
	}
	return fmt.Sprintf("serving; %d sessions recovered, %d lost, after a pause of %v", r.recovered.Sessions, r.recovered.Lost, r.pause)
}

// survival returns what GetServerInfo tells of what outlives this process.
func survival(link *keeper.Link, d durability, r restart) func() server.Survival {
	return func() server.Survival {
		info := link.Info()
		s := server.Survival{Sessions: d.kernel, Reason: d.reason, Epoch: link.Epoch(), Keeper: &info}
		switch {
		case d.kernel && !info.Away.IsZero():
			s.Sessions, s.Reason = false, "the keeper is away; what it held is put into the next one"
		case d.kernel:
			s.Reason = fmt.Sprintf("%s, and the keeper, process %d, holds a copy of every descriptor", d.reason, info.Pid)
		}
		if r.again {
			s.Restart = &server.Restart{Time: r.at, Pause: r.pause, Recovered: r.recovered.Sessions, Lost: r.recovered.Lost}
		}
		return s
	}
}
