package pipe

import (
	"testing"
)

func TestMessageSentIntoOneEndComesOutOfTheOther(t *testing.T) {
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, f := range []string{"mp", "line"} {
		for _, sealed := range []bool{false, true} {
			one, two, err := Open(p, Spec{Kind: Duplex, In: Framing{Name: f}, Out: Framing{Name: f}, LogSize: 4 << 20, TailSize: 64 << 10, MaxMessage: 1 << 30, Sealed: sealed})
			if err != nil {
				t.Fatal(err)
			}
			if err := one.out.Append(Part{Data: []byte("123456")}); err != nil {
				t.Fatal(err)
			}
			if err := one.out.Append(Part{Data: []byte("")}); err != nil {
				t.Fatal(err)
			}
			if err := one.out.Push(); err != nil {
				t.Fatal(err)
			}
			c := two.in.Consumer()
			for _, want := range []string{"123456", ""} {
				for {
					ev, err := c.Next(nil, Limits{})
					if err != nil {
						t.Fatal(err)
					}
					if ev.Batch != nil {
						if string(ev.Batch.Data) != want {
							t.Fatalf("%s: got %q", f, ev.Batch.Data)
						}
						break
					}
					<-c.Changed()
				}
			}
			c.Close()
			one.Close(false)
			two.Close(false)
			<-one.Closed()
			<-two.Closed()
		}
	}
}
