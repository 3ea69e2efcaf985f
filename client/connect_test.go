package client

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

// dyingListener accepts connections that become ready and die at once.
func dyingListener(t *testing.T) net.Addr {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				// The preface of HTTP/2, and then settings, which are empty.
				_, _ = io.ReadFull(conn, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")))
				_, _ = conn.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return listener.Addr()
}

// A preemptedConn is a connection whose caller, after the first Connect, does not
// run again before the connection has come and gone.
type preemptedConn struct {
	*grpc.ClientConn
	once sync.Once
}

func (c *preemptedConn) Connect() {
	c.ClientConn.Connect()
	c.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c.WaitForStateChange(ctx, connectivity.Idle)
		for state := c.GetState(); state != connectivity.Idle; state = c.GetState() {
			c.WaitForStateChange(ctx, state)
		}
	})
}

func TestConnectDoesNotWaitForAConnectionThatHasComeAndGone(t *testing.T) {
	addr := dyingListener(t)
	for name, preempted := range map[string]bool{"seen": false, "not seen": true} {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				conn, err := grpc.NewClient("passthrough:///"+addr.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				if preempted {
					err = connect(ctx, &preemptedConn{ClientConn: conn})
				} else {
					err = connect(ctx, conn)
				}
				// Whether it was ready or is gone already, is a matter of luck.
				if err != nil && !errors.Is(err, ErrUnavailable) {
					t.Fatal(err)
				}
				cancel()
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
